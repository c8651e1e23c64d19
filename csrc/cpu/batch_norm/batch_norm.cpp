// batch_norm: which piece of a tensor is computed when, and by which thread.
//
// NCHW: threads take channels, whose planes are cut into pieces; a channel is summed and then normalised, from its end,
// while it is still in the cache. Where there are too few channels for the threads, they take pieces instead, with the
// same sums. Channels innermost, a batch is one sample of instance norm with n * hw pixels.
//
// Pieces have a size that depends on the shape alone, and their sums are merged in order: results do not depend on the
// number of threads.
#include "cpu/batch_norm/batch_norm.h"

#include <algorithm>
#include <vector>

#include "cpu/instance_norm/norm.h"
#include "cpu/parallel.h"
#include "cpu/simd/kernels.h"

namespace fastgan {
namespace {

template <class A>
PlaneParams<A> params_of(const BatchNormShape& s, const NormChannels& channels, int64_t c, bool streams) {
  const A mean = *at<A>(channels.mean, c), rstd = *at<A>(channels.rstd, c);
  return plane_params<A>(mean, rstd, channels.weight, channels.bias, c, s.slope, streams);
}

// Past the caches only where no cache line is shared by two planes.
template <class T>
bool streams_result(const BatchNormShape& s) {
  if (s.layout == Layout::nchw && s.hw * sizeof(T) % 64 != 0) return false;
  return streams_past_caches(s.layout, s.n * s.c * s.hw * static_cast<int64_t>(sizeof(T)));
}

// The channels of an NCHW tensor in pieces of about kBlock elements: several planes, or a part of one.
struct Pieces {
  const BatchNormShape& s;
  int64_t length = std::min(s.hw, kBlock), per_plane = ceil_div(s.hw, length);
  int64_t planes = std::min(s.n, std::max<int64_t>(1, kBlock / s.hw));
  int64_t count = ceil_div(s.n, planes) * per_plane;  // of one channel
  int64_t stride = s.c * s.hw;

  struct Piece {
    int64_t offset, planes, length;
  };

  Piece at(int64_t channel, int64_t i) const {
    const int64_t sample = i / per_plane * planes, begin = i % per_plane * length;
    return {(sample * s.c + channel) * s.hw + begin, std::min(planes, s.n - sample), std::min(length, s.hw - begin)};
  }

  // sum(channel, piece) -> Sum for all pieces of a channel, then finish(channel, Sum*), then write(channel, piece).
  template <class Sum, class SumPiece, class Finish, class Write>
  void two_passes(const SumPiece& sum, const Finish& finish, const Write& write) const {
    if (s.c >= 4 * thread_count() || count == 1) {
      parallel_for(s.c, kGrain / (s.n * s.hw), [&](int64_t begin, int64_t end) {
        std::vector<Sum> sums(static_cast<size_t>(count));
        for (int64_t channel = begin; channel < end; ++channel) {
          for (int64_t i = 0; i < count; ++i) sums[static_cast<size_t>(i)] = sum(channel, at(channel, i));
          finish(channel, sums.data());
          for (int64_t i = count; i-- > 0;) write(channel, at(channel, i));
        }
      });
      return;
    }
    std::vector<Sum> sums(static_cast<size_t>(s.c * count));
    parallel_for(s.c * count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sums[static_cast<size_t>(i)] = sum(i / count, at(i / count, i % count));
    });
    for (int64_t channel = 0; channel < s.c; ++channel) finish(channel, &sums[static_cast<size_t>(channel * count)]);
    parallel_for(s.c * count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = end; i-- > begin;) write(i / count, at(i / count, i % count));
    });
  }
};

struct GradientSums {
  double g = 0, gn = 0;
};

// sum(g) and sum(g * n) of a channel, in the order of its pieces.
GradientSums total(const GradientSums* sums, int64_t count) {
  GradientSums all;
  for (int64_t i = 0; i < count; ++i) {
    all.g += sums[i].g;
    all.gn += sums[i].gn;
  }
  return all;
}

void store(const BatchNormBackward& a, int64_t channel, const GradientSums& sums) {
  if (a.dbias != nullptr) a.dbias[channel] = sums.g;
  if (a.dweight != nullptr) a.dweight[channel] = sums.gn;
}

template <class T>
void planes_forward(const BatchNormShape& s, const BatchNormForward& a) {
  using A = Accumulate<T>;
  using Piece = Pieces::Piece;
  const BatchNormKernels<T>& k = kernels<T>().batch_norm;
  const NormChannels channels = {a.mean, a.rstd, a.weight, a.bias};
  const bool streams = streams_result<T>(s);
  const Pieces pieces{s};
  const int64_t elements = s.n * s.hw;
  pieces.two_passes<Moments>(
      [&](int64_t, const Piece& p) {
        Moments m;
        m.seen = static_cast<double>(p.planes * p.length);
        k.planes_moments(at<T>(a.x, p.offset), p.planes, pieces.stride, p.length, &m.mean, &m.m2);
        return m;
      },
      [&](int64_t channel, const Moments* parts) {
        Moments m;
        for (int64_t i = 0; i < pieces.count; ++i) m.merge(parts[i].mean, parts[i].m2, parts[i].seen);
        *at<A>(a.mean, channel) = static_cast<A>(m.mean);
        *at<A>(a.rstd, channel) = rstd_of<A>(m.m2, elements, a.eps);
        *at<A>(a.variance, channel) = static_cast<A>(m.m2 / static_cast<double>(elements - 1));
      },
      [&](int64_t channel, const Piece& p) {
        k.planes_forward(s.activation, at<T>(a.x, p.offset), at<T>(a.y, p.offset), p.planes, pieces.stride, p.length,
                         params_of<A>(s, channels, channel, streams));
      });
}

template <class T>
void planes_backward(const BatchNormShape& s, const BatchNormBackward& a, bool fixed) {
  using A = Accumulate<T>;
  using Piece = Pieces::Piece;
  const BatchNormKernels<T>& k = kernels<T>().batch_norm;
  const bool streams = streams_result<T>(s), summed = !fixed || a.dweight != nullptr || a.dbias != nullptr;
  const Pieces pieces{s};
  const double elements = static_cast<double>(s.n * s.hw);
  std::vector<GradientSums> sums(static_cast<size_t>(s.c));
  const auto params = [&](int64_t channel) { return params_of<A>(s, a.channels, channel, streams); };
  pieces.two_passes<GradientSums>(
      [&](int64_t channel, const Piece& p) {
        GradientSums more;
        const T* const dy = at<T>(a.dy, p.offset);
        const T* const x = at<T>(a.x, p.offset);
        const PlaneParams<A> of = params(channel);
        if (summed) k.planes_sums(s.activation, dy, x, p.planes, pieces.stride, p.length, of, &more.g, &more.gn);
        if (fixed) {  // while the piece is in the cache
          k.planes_backward_fixed(s.activation, dy, x, at<T>(a.dx, p.offset), p.planes, pieces.stride, p.length, of);
        }
        return more;
      },
      [&](int64_t channel, const GradientSums* parts) {
        sums[static_cast<size_t>(channel)] = total(parts, pieces.count);
        store(a, channel, sums[static_cast<size_t>(channel)]);
      },
      [&](int64_t channel, const Piece& p) {
        if (fixed) return;
        const GradientSums& of = sums[static_cast<size_t>(channel)];
        const PlaneParams<A> of_plane = params(channel);
        const A mean_g = static_cast<A>(of.g / elements), slant = -of_plane.rstd * static_cast<A>(of.gn / elements);
        k.planes_backward(s.activation, at<T>(a.dy, p.offset), at<T>(a.x, p.offset), at<T>(a.dx, p.offset), p.planes,
                          pieces.stride, p.length, of_plane, mean_g, slant);
      });
}

InstanceNormShape one_sample(const BatchNormShape& s) {
  return {s.dtype, Layout::nhwc, 1, s.c, s.n * s.hw, 1, s.activation, s.slope, 0};
}

// Scale and shift of the channels, for the kernels that take runs of pixels.
template <class A>
struct PixelParams {
  const BatchNormShape& s;
  const NormChannels& channels;
  bool streams;
  std::vector<A> scale = std::vector<A>(static_cast<size_t>(s.c)), shift = scale;

  ChannelParams<A> get() {
    for (int64_t c = 0; c < s.c; ++c) {
      const PlaneParams<A> p = params_of<A>(s, channels, c, streams);
      scale[static_cast<size_t>(c)] = p.scale;
      shift[static_cast<size_t>(c)] = p.shift;
    }
    return {
        at<A>(channels.mean, 0), at<A>(channels.rstd, 0), scale.data(), shift.data(), static_cast<A>(s.slope), streams};
  }
};

template <class T>
void apply_as(const BatchNormShape& s, const void* x, const NormChannels& channels, void* y) {
  using A = Accumulate<T>;
  const bool streams = streams_result<T>(s);
  if (s.layout == Layout::nchw) {
    const BatchNormKernels<T>& k = kernels<T>().batch_norm;
    const int64_t length = std::min(s.hw, kBlock), blocks = ceil_div(s.hw, length);
    parallel_for(s.n * s.c * blocks, ceil_div(kGrain, length), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t plane = i / blocks, start = i % blocks * length, offset = plane * s.hw + start;
        k.planes_forward(s.activation, at<T>(x, offset), at<T>(y, offset), 1, 0, std::min(length, s.hw - start),
                         params_of<A>(s, channels, plane % s.c, streams));
      }
    });
    return;
  }
  PixelParams<A> params{s, channels, streams};
  const ChannelParams<A> p = params.get();
  const int64_t pixels = s.n * s.hw, some = pixels_per_block(s.c, sizeof(T));
  parallel_for(ceil_div(pixels, some), ceil_div(kGrain, some * s.c), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * some, count = std::min(pixels, end * some) - first;
    kernels<T>().norm.channel_forward(s.activation, at<T>(x, first * s.c), nullptr, at<T>(y, first * s.c), count, s.c,
                                      p);
  });
}

// Channels innermost, statistics constant: sums and gradient of each block of pixels while it is in the cache.
template <class T>
void pixels_backward_fixed(const BatchNormShape& s, const BatchNormBackward& a) {
  using A = Accumulate<T>;
  PixelParams<A> params{s, a.channels, streams_result<T>(s)};
  const ChannelParams<A> p = params.get();
  const int64_t pixels = s.n * s.hw, some = pixels_per_block(s.c, sizeof(T)), blocks = ceil_div(pixels, some);
  const bool summed = a.dweight != nullptr || a.dbias != nullptr;
  const PartialSumsSpace space(summed ? blocks * 2 * s.c : 0);
  double* const partial = space.get();
  parallel_for(blocks, ceil_div(kGrain, some * s.c), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t count = std::min(some, pixels - block * some), offset = block * some * s.c;
      const T* const dy = at<T>(a.dy, offset);
      const T* const x = at<T>(a.x, offset);
      if (summed) {
        double* const g = partial + block * 2 * s.c;
        std::fill(g, g + 2 * s.c, 0.0);
        kernels<T>().norm.channel_sums(s.activation, dy, x, count, s.c, p, g, g + s.c);
      }
      kernels<T>().batch_norm.channel_backward_fixed(s.activation, dy, x, at<T>(a.dx, offset), count, s.c, p);
    }
  });
  for (int64_t c = 0; summed && c < s.c; ++c) {
    GradientSums all;
    for (int64_t block = 0; block < blocks; ++block) {
      all.g += partial[block * 2 * s.c + c];
      all.gn += partial[block * 2 * s.c + s.c + c];
    }
    store(a, c, all);
  }
}

}  // namespace

void batch_norm_forward(const BatchNormShape& s, const BatchNormForward& a) {
  if (s.layout == Layout::nchw) {
    return with_type<float, BFloat16, double>(s.dtype, [&](auto element) { planes_forward<decltype(element)>(s, a); });
  }
  instance_norm_forward(one_sample(s),
                        {a.x, nullptr, 0, 0, 0, a.weight, a.bias, a.eps, a.y, a.mean, a.rstd, a.variance});
}

void batch_norm_backward(const BatchNormShape& s, const BatchNormBackward& a) {
  if (s.layout == Layout::nchw) {
    return with_type<float, BFloat16, double>(s.dtype,
                                              [&](auto element) { planes_backward<decltype(element)>(s, a, false); });
  }
  instance_norm_backward(one_sample(s), {a.dy, nullptr, a.x, a.channels, a.dx, nullptr, a.dweight, a.dbias});
}

void batch_norm_apply(const BatchNormShape& s, const void* x, const NormChannels& channels, void* y) {
  with_type<float, BFloat16, double>(s.dtype, [&](auto element) { apply_as<decltype(element)>(s, x, channels, y); });
}

void batch_norm_apply_backward(const BatchNormShape& s, const BatchNormBackward& a) {
  with_type<float, BFloat16, double>(s.dtype, [&](auto element) {
    using T = decltype(element);
    if (s.layout == Layout::nchw) {
      planes_backward<T>(s, a, true);
    } else {
      pixels_backward_fixed<T>(s, a);
    }
  });
}

}  // namespace fastgan
