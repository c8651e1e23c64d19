// instance_norm: which piece of a tensor is computed when, and by which thread.
//
// NCHW: a plane is summed and then normalised while it is still in the cache; threads take planes. Where there are too
// few planes for the threads, every plane is cut into blocks instead, with the same sums.
// Channels innermost: three loops over groups of samples that fit the last-level cache: moments of blocks of pixels,
// their merge, and the normalise step, which walks each thread's range backwards, since its end was touched last.
//
// Blocks have a size that depends on the shape alone, and their sums are merged in order: results do not depend on the
// number of threads.
#include "cpu/instance_norm/instance_norm.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/instance_norm/norm.h"
#include "cpu/parallel.h"
#include "cpu/simd/kernels.h"
#include "scratch.h"

namespace fastgan {
namespace {

constexpr int64_t kFoldBlock = 4096;      // elements folded at a time into a scratch row
constexpr int64_t kGroupBytes = 8 << 20;  // of samples that are held in the last-level cache

// While a plane is written the next one is fetched, where its inputs take no more than a quarter of 1 MB of L2.
constexpr int64_t kFetchBytes = 256 * 1024;

// Writes the halo of one interior row, which lies at `row` (its first interior pixel) inside a padded image: left and
// right of it, and the whole padded row wherever row i is mirrored above or below.
template <class T>
void write_halo(T* row, int64_t i, int64_t h, int64_t w, int64_t pixel, int64_t halo) {
  const int64_t size = (w + 2 * halo) * pixel;
  const size_t pixel_bytes = static_cast<size_t>(pixel) * sizeof(T);
  if (pixel == 1) {
    for (int64_t j = 1; j <= halo; ++j) {
      row[-j] = row[j];
      row[w - 1 + j] = row[w - 1 - j];
    }
  } else {
    for (int64_t j = 1; j <= halo; ++j) {
      std::memcpy(row - j * pixel, row + j * pixel, pixel_bytes);
      std::memcpy(row + (w - 1 + j) * pixel, row + (w - 1 - j) * pixel, pixel_bytes);
    }
  }
  const T* const start = row - halo * pixel;
  const size_t row_bytes = static_cast<size_t>(size) * sizeof(T);
  if (i >= 1 && i <= halo) std::memcpy(const_cast<T*>(start) - 2 * i * size, start, row_bytes);
  const int64_t below = h - 1 - i;
  if (below >= 1 && below <= halo) std::memcpy(const_cast<T*>(start) + 2 * below * size, start, row_bytes);
}

template <class T>
bool streams_result(const InstanceNormShape& s) {
  return streams_past_caches(s.layout, s.n * s.c * s.h * s.w * static_cast<int64_t>(sizeof(T)));
}

// How far ahead of a plane of `inputs` tensors to fetch.
template <class T>
int64_t ahead(int64_t hw, int64_t inputs, int64_t planes_left) {
  return planes_left > 0 && inputs * hw * static_cast<int64_t>(sizeof(T)) <= kFetchBytes ? hw : 0;
}

template <class T>
struct PlanesForward {
  using A = Accumulate<T>;
  const InstanceNormShape& s;
  const InstanceNormForward& a;
  const NormKernels<T>& k = kernels<T>().norm;
  int64_t hw = s.h * s.w, planes = s.n * s.c, blocks = ceil_div(hw, kBlock);
  bool streams = s.halo == 0 && streams_result<T>(s);  // a halo is copied from the rows just written
  // A plane is written in one piece where its elements are contiguous on both sides, else row by row.
  bool flat = s.halo == 0 && (a.residual == nullptr || a.residual_stride_h == s.w);
  int64_t rows_per_block = std::max<int64_t>(1, kBlock / std::max<int64_t>(1, s.w));
  int64_t write_blocks = flat ? blocks : ceil_div(s.h, rows_per_block);

  void moments(int64_t plane, int64_t block, double* mean, double* m2) const {
    const int64_t begin = block * kBlock, count = std::min(kBlock, hw - begin);
    k.plane_moments(at<T>(a.x, plane * hw + begin), count, mean, m2);
  }

  PlaneParams<A> finish(int64_t plane, const Moments& m) const {
    const A mean = static_cast<A>(m.mean), rstd = rstd_of<A>(m.m2, hw, a.eps);
    *at<A>(a.mean, plane) = mean;
    *at<A>(a.rstd, plane) = rstd;
    if (a.variance != nullptr) *at<A>(a.variance, plane) = static_cast<A>(m.m2 / static_cast<double>(hw - 1));
    return plane_params<A>(mean, rstd, a.weight, a.bias, plane % s.c, s.slope, streams);
  }

  void write(int64_t plane, int64_t block, const PlaneParams<A>& p) const {
    const T* const x = at<T>(a.x, plane * hw);
    const T* residual = nullptr;
    if (a.residual != nullptr) {
      residual = at<T>(a.residual, plane / s.c * a.residual_stride_n + plane % s.c * a.residual_stride_c);
    }
    if (flat) {
      const int64_t begin = block * kBlock, count = std::min(kBlock, hw - begin);
      T* const y = at<T>(a.y, plane * hw + begin);
      k.plane_forward(s.activation, x + begin, residual != nullptr ? residual + begin : nullptr, y, count, p);
      return;
    }
    const int64_t width = s.w + 2 * s.halo;
    T* const y = at<T>(a.y, plane * (s.h + 2 * s.halo) * width) + s.halo * width + s.halo;
    const int64_t end = std::min(s.h, (block + 1) * rows_per_block);
    for (int64_t i = block * rows_per_block; i < end; ++i) {
      const T* const r = residual != nullptr ? residual + i * a.residual_stride_h : nullptr;
      k.plane_forward(s.activation, x + i * s.w, r, y + i * width, s.w, p);
      if (s.halo > 0) write_halo(y + i * width, i, s.h, s.w, 1, s.halo);
    }
  }

  void run() const {
    if (planes >= 4 * thread_count() || blocks <= 1) {
      parallel_for(planes, kGrain / std::max<int64_t>(1, hw), [&](int64_t begin, int64_t end) {
        for (int64_t plane = begin; plane < end; ++plane) {
          Moments m;
          for (int64_t block = 0; block < blocks; ++block) {
            double mean, m2;
            moments(plane, block, &mean, &m2);
            m.merge(mean, m2, static_cast<double>(std::min(kBlock, hw - block * kBlock)));
          }
          PlaneParams<A> p = finish(plane, m);
          p.ahead = ahead<T>(hw, 1, end - 1 - plane);
          for (int64_t block = 0; block < write_blocks; ++block) write(plane, block, p);
        }
      });
      return;
    }
    std::vector<double> partial(static_cast<size_t>(2 * planes * blocks));
    parallel_for(planes * blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) moments(i / blocks, i % blocks, &partial[2 * i], &partial[2 * i + 1]);
    });
    std::vector<PlaneParams<A>> params;
    for (int64_t plane = 0; plane < planes; ++plane) {
      Moments m;
      for (int64_t block = 0; block < blocks; ++block) {
        const double* const more = &partial[2 * (plane * blocks + block)];
        m.merge(more[0], more[1], static_cast<double>(std::min(kBlock, hw - block * kBlock)));
      }
      params.push_back(finish(plane, m));
    }
    parallel_for(planes * write_blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) write(i / write_blocks, i % write_blocks, params[i / write_blocks]);
    });
  }
};

template <class T>
struct PlanesBackward {
  using A = Accumulate<T>;
  const InstanceNormShape& s;
  const InstanceNormBackward& a;
  double *sum_g, *sum_gn;  // [planes]
  const NormKernels<T>& k = kernels<T>().norm;
  const FoldKernels<T>& fold = kernels<T>().fold;
  int64_t hw = s.h * s.w, planes = s.n * s.c;
  bool streams = streams_result<T>(s);
  // With a halo, blocks are whole rows, whose gradients are folded into scratch memory first.
  int64_t rows_per_block = std::max<int64_t>(1, kFoldBlock / std::max<int64_t>(1, s.w));
  int64_t block_size = s.halo > 0 ? rows_per_block * s.w : kBlock;
  int64_t blocks = ceil_div(hw, block_size);
  int64_t scratch_size = s.halo > 0 ? block_size : 0;
  PaddedImage image = {s.h, s.w, 1, s.halo, s.halo, s.halo, s.halo};

  PlaneParams<A> params(int64_t plane) const {
    const A mean = *at<A>(a.channels.mean, plane), rstd = *at<A>(a.channels.rstd, plane);
    return plane_params<A>(mean, rstd, a.channels.weight, a.channels.bias, plane % s.c, s.slope, streams);
  }

  void fold_block(int64_t plane, int64_t block, A* folded) const {
    const T* const dy = at<T>(a.dy, plane * (s.h + 2 * s.halo) * (s.w + 2 * s.halo));
    const T* const inner = a.dy_interior != nullptr ? at<T>(a.dy_interior, plane * hw) : nullptr;
    fold.fold_rows(dy, inner, image, block * rows_per_block, std::min(s.h, (block + 1) * rows_per_block), folded);
  }

  void sums(int64_t plane, int64_t block, const PlaneParams<A>& p, A* folded, double* g, double* gn) const {
    const int64_t begin = block * block_size, count = std::min(block_size, hw - begin);
    const T* const x = at<T>(a.x, plane * hw + begin);
    if (s.halo == 0) {
      k.plane_sums(s.activation, at<T>(a.dy, plane * hw + begin), x, count, p, g, gn);
      return;
    }
    fold_block(plane, block, folded);
    k.plane_sums_folded(s.activation, folded, x, count, p, g, gn);
    if (a.dresidual != nullptr) fold.store(folded, at<T>(a.dresidual, plane * hw + begin), count);
  }

  // With one block to a plane, `folded` still holds it.
  void write(int64_t plane, int64_t block, const PlaneParams<A>& p, A* folded) const {
    const int64_t begin = block * block_size, count = std::min(block_size, hw - begin);
    const T* const x = at<T>(a.x, plane * hw + begin);
    T* const dx = at<T>(a.dx, plane * hw + begin);
    const A mean_g = static_cast<A>(sum_g[plane] / static_cast<double>(hw));
    const A slant = -p.rstd * static_cast<A>(sum_gn[plane] / static_cast<double>(hw));
    if (s.halo == 0) {
      k.plane_backward(s.activation, at<T>(a.dy, plane * hw + begin), x, dx, count, p, mean_g, slant);
      return;
    }
    if (blocks > 1) fold_block(plane, block, folded);
    k.plane_backward_folded(s.activation, folded, x, dx, count, p, mean_g, slant);
  }

  void run() const {
    if (planes >= 4 * thread_count() || blocks <= 1) {
      parallel_for(planes, kGrain / std::max<int64_t>(1, hw), [&](int64_t begin, int64_t end) {
        const Scratch<A> folded(scratch_size);
        for (int64_t plane = begin; plane < end; ++plane) {
          PlaneParams<A> p = params(plane);
          p.ahead = ahead<T>(hw, 2, end - 1 - plane);
          double g = 0, gn = 0;
          for (int64_t block = 0; block < blocks; ++block) {
            double more_g = 0, more_gn = 0;
            sums(plane, block, p, folded.get(), &more_g, &more_gn);
            g += more_g;
            gn += more_gn;
          }
          sum_g[plane] = g;
          sum_gn[plane] = gn;
          for (int64_t block = 0; block < blocks; ++block) write(plane, block, p, folded.get());
        }
      });
      return;
    }
    std::vector<double> partial(static_cast<size_t>(2 * planes * blocks));
    const int64_t grain = std::max<int64_t>(1, kBlock / block_size);
    parallel_for(planes * blocks, grain, [&](int64_t begin, int64_t end) {
      const Scratch<A> folded(scratch_size);
      for (int64_t i = begin; i < end; ++i) {
        sums(i / blocks, i % blocks, params(i / blocks), folded.get(), &partial[2 * i], &partial[2 * i + 1]);
      }
    });
    for (int64_t plane = 0; plane < planes; ++plane) {
      double g = 0, gn = 0;
      for (int64_t i = plane * blocks; i < (plane + 1) * blocks; ++i) {
        g += partial[2 * i];
        gn += partial[2 * i + 1];
      }
      sum_g[plane] = g;
      sum_gn[plane] = gn;
    }
    parallel_for(planes * blocks, grain, [&](int64_t begin, int64_t end) {
      const Scratch<A> folded(scratch_size);
      for (int64_t i = begin; i < end; ++i) write(i / blocks, i % blocks, params(i / blocks), folded.get());
    });
  }
};

// Loops over all blocks of the samples [first, last): body(sample, block). A thread walks its range backwards on
// request.
template <class F>
void each_block(int64_t first, int64_t last, int64_t blocks, int64_t block_elements, bool backwards, const F& body) {
  const int64_t grain = ceil_div(kGrain, std::max<int64_t>(1, block_elements));
  parallel_for((last - first) * blocks, grain, [&](int64_t begin, int64_t end) {
    const auto run = body();
    for (int64_t i = begin; i < end; ++i) {
      const int64_t index = backwards ? begin + end - 1 - i : i;
      run(first + index / blocks, index % blocks);
    }
  });
}

// Per-channel parameters of a group of samples: [samples][c] each.
template <class A>
struct ChannelArrays {
  std::vector<A> scale, shift;
  std::vector<A> mean_g, slant;
};

int64_t samples_per_group(const InstanceNormShape& s, size_t element) {
  const int64_t sample = std::max<int64_t>(1, s.c * s.h * s.w * static_cast<int64_t>(element));
  return std::max<int64_t>(1, kGroupBytes / sample);
}

constexpr int64_t kChannelBlock = 64;  // channels that a thread merges at a time

template <class T>
struct PixelsForward {
  using A = Accumulate<T>;
  const InstanceNormShape& s;
  const InstanceNormForward& a;
  const NormKernels<T>& k = kernels<T>().norm;
  int64_t hw = s.h * s.w, c = s.c;
  bool streams = streams_result<T>(s);
  int64_t block_pixels = pixels_per_block(s.c, sizeof(T)), blocks = ceil_div(hw, block_pixels);
  int64_t group = samples_per_group(s, sizeof(T));
  // Pixels are written in blocks of any pixels where they are contiguous on both sides, else row by row.
  bool flat = s.halo == 0 && (a.residual == nullptr || a.residual_stride_h == s.w * c);

  void group_moments(int64_t first, int64_t last, double* partial) const {
    each_block(first, last, blocks, block_pixels * c, false, [&] {
      return [&](int64_t sample, int64_t block) {
        const int64_t begin = block * block_pixels, count = std::min(block_pixels, hw - begin);
        double* const mean = partial + ((sample - first) * blocks + block) * 2 * c;
        k.channel_moments(at<T>(a.x, (sample * hw + begin) * c), count, c, mean, mean + c);
      };
    });
  }

  void group_finish(int64_t first, int64_t last, double* partial, ChannelArrays<A>& arrays) const {
    const int64_t channel_blocks = ceil_div(c, kChannelBlock);
    parallel_for(
        (last - first) * channel_blocks, ceil_div(kGrain, blocks * kChannelBlock), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t sample = i / channel_blocks, channel = i % channel_blocks * kChannelBlock;
            const int64_t count = std::min(kChannelBlock, c - channel);
            double* const mean = partial + sample * blocks * 2 * c + channel;
            for (int64_t block = 1; block < blocks; ++block) {
              const double* const more = mean + block * 2 * c;
              const int64_t seen = block * block_pixels;
              k.merge_moments(mean, mean + c, static_cast<double>(seen), more, more + c,
                              static_cast<double>(std::min(block_pixels, hw - seen)), count);
            }
            for (int64_t j = 0; j < count; ++j) {
              const A middle = static_cast<A>(mean[j]), rstd = rstd_of<A>(mean[c + j], hw, a.eps);
              *at<A>(a.mean, (first + sample) * c + channel + j) = middle;
              *at<A>(a.rstd, (first + sample) * c + channel + j) = rstd;
              if (a.variance != nullptr) {
                *at<A>(a.variance, (first + sample) * c + channel + j) =
                    static_cast<A>(mean[c + j] / static_cast<double>(hw - 1));
              }
              const PlaneParams<A> p = plane_params<A>(middle, rstd, a.weight, a.bias, channel + j, s.slope, streams);
              arrays.scale[static_cast<size_t>(sample * c + channel + j)] = p.scale;
              arrays.shift[static_cast<size_t>(sample * c + channel + j)] = p.shift;
            }
          }
        });
  }

  void group_write(int64_t first, int64_t last, const ChannelArrays<A>& arrays) const {
    const auto params = [&](int64_t sample) {
      const int64_t local = (sample - first) * c, global = sample * c;
      return ChannelParams<A>{at<A>(static_cast<const void*>(a.mean), global),
                              at<A>(static_cast<const void*>(a.rstd), global),
                              arrays.scale.data() + local,
                              arrays.shift.data() + local,
                              static_cast<A>(s.slope),
                              streams};
    };
    if (flat) {
      each_block(first, last, blocks, block_pixels * c, true, [&] {
        return [&](int64_t sample, int64_t block) {
          const int64_t begin = block * block_pixels, count = std::min(block_pixels, hw - begin);
          const int64_t offset = (sample * hw + begin) * c;
          const T* residual = nullptr;
          if (a.residual != nullptr) residual = at<T>(a.residual, sample * a.residual_stride_n + begin * c);
          k.channel_forward(s.activation, at<T>(a.x, offset), residual, at<T>(a.y, offset), count, c, params(sample));
        };
      });
      return;
    }
    const int64_t width = s.w + 2 * s.halo;
    each_block(first, last, s.h, s.w * c, true, [&] {
      return [&](int64_t sample, int64_t i) {
        const T* residual = nullptr;
        if (a.residual != nullptr) residual = at<T>(a.residual, sample * a.residual_stride_n + i * a.residual_stride_h);
        T* const y = at<T>(a.y, ((sample * (s.h + 2 * s.halo) + i + s.halo) * width + s.halo) * c);
        k.channel_forward(s.activation, at<T>(a.x, (sample * hw + i * s.w) * c), residual, y, s.w, c, params(sample));
        if (s.halo > 0) write_halo(y, i, s.h, s.w, c, s.halo);
      };
    });
  }

  void run() const {
    for (int64_t first = 0; first < s.n; first += group) {
      const int64_t last = std::min(s.n, first + group), samples = last - first;
      const PartialSumsSpace partial(samples * blocks * 2 * c);
      ChannelArrays<A> arrays;
      arrays.scale.resize(static_cast<size_t>(samples * c));
      arrays.shift.resize(static_cast<size_t>(samples * c));
      group_moments(first, last, partial.get());
      group_finish(first, last, partial.get(), arrays);
      group_write(first, last, arrays);
    }
  }
};

template <class T>
struct PixelsBackward {
  using A = Accumulate<T>;
  const InstanceNormShape& s;
  const InstanceNormBackward& a;
  double *sum_g, *sum_gn;  // [n * c]
  const NormKernels<T>& k = kernels<T>().norm;
  const FoldKernels<T>& fold = kernels<T>().fold;
  int64_t hw = s.h * s.w, c = s.c;
  bool streams = streams_result<T>(s);
  int64_t sum_pixels = pixels_per_block(s.c, sizeof(T));  // summed in A before going on in double
  // With a halo, blocks are rows, whose gradients are folded into scratch memory first.
  int64_t block_pixels = s.halo > 0 ? s.w : sum_pixels, blocks = ceil_div(hw, block_pixels);
  int64_t group = samples_per_group(s, 2 * sizeof(T));
  PaddedImage image = {s.h, s.w, c, s.halo, s.halo, s.halo, s.halo};

  ChannelParams<A> params(int64_t sample, int64_t first, const ChannelArrays<A>& arrays) const {
    return {at<A>(a.channels.mean, sample * c),
            at<A>(a.channels.rstd, sample * c),
            arrays.scale.data() + (sample - first) * c,
            arrays.shift.data() + (sample - first) * c,
            static_cast<A>(s.slope),
            streams};
  }

  void fold_row(int64_t sample, int64_t i, A* folded) const {
    const int64_t padded = (s.h + 2 * s.halo) * (s.w + 2 * s.halo) * c;
    const T* const inner = a.dy_interior != nullptr ? at<T>(a.dy_interior, sample * hw * c) : nullptr;
    fold.fold_rows(at<T>(a.dy, sample * padded), inner, image, i, i + 1, folded);
  }

  void group_sums(int64_t first, int64_t last, const ChannelArrays<A>& arrays, double* partial) const {
    each_block(first, last, blocks, block_pixels * c, false, [&] {
      return [&, folded = Scratch<A>(s.halo > 0 ? s.w * c : 0)](int64_t sample, int64_t block) {
        const int64_t begin = block * block_pixels, count = std::min(block_pixels, hw - begin);
        const int64_t offset = (sample * hw + begin) * c;
        double* const g = partial + ((sample - first) * blocks + block) * 2 * c;
        std::fill(g, g + 2 * c, 0.0);
        const ChannelParams<A> p = params(sample, first, arrays);
        if (s.halo > 0) {
          fold_row(sample, block, folded.get());
          if (a.dresidual != nullptr) fold.store(folded.get(), at<T>(a.dresidual, offset), count * c);
        }
        for (int64_t pixel = 0; pixel < count; pixel += sum_pixels) {
          const int64_t some = std::min(sum_pixels, count - pixel);
          const T* const x = at<T>(a.x, offset + pixel * c);
          if (s.halo > 0) {
            k.channel_sums_folded(s.activation, folded.get() + pixel * c, x, some, c, p, g, g + c);
          } else {
            k.channel_sums(s.activation, at<T>(a.dy, offset + pixel * c), x, some, c, p, g, g + c);
          }
        }
      };
    });
  }

  void group_finish(int64_t first, int64_t last, const double* partial, ChannelArrays<A>& arrays) const {
    const double count = static_cast<double>(hw);
    parallel_for(last - first, ceil_div(kGrain, blocks * c), [&](int64_t begin, int64_t end) {
      for (int64_t sample = begin; sample < end; ++sample) {
        double* const g = sum_g + (first + sample) * c;
        double* const gn = sum_gn + (first + sample) * c;
        for (int64_t j = 0; j < c; ++j) g[j] = gn[j] = 0;
        for (int64_t block = 0; block < blocks; ++block) {
          const double* const more = partial + (sample * blocks + block) * 2 * c;
          for (int64_t j = 0; j < c; ++j) {
            g[j] += more[j];
            gn[j] += more[c + j];
          }
        }
        for (int64_t j = 0; j < c; ++j) {
          arrays.mean_g[static_cast<size_t>(sample * c + j)] = static_cast<A>(g[j] / count);
          arrays.slant[static_cast<size_t>(sample * c + j)] =
              -*at<A>(a.channels.rstd, (first + sample) * c + j) * static_cast<A>(gn[j] / count);
        }
      }
    });
  }

  void group_write(int64_t first, int64_t last, const ChannelArrays<A>& arrays) const {
    each_block(first, last, blocks, block_pixels * c, true, [&] {
      return [&, folded = Scratch<A>(s.halo > 0 ? s.w * c : 0)](int64_t sample, int64_t block) {
        const int64_t begin = block * block_pixels, count = std::min(block_pixels, hw - begin);
        const int64_t offset = (sample * hw + begin) * c;
        const A* const mean_g = arrays.mean_g.data() + (sample - first) * c;
        const A* const slant = arrays.slant.data() + (sample - first) * c;
        const ChannelParams<A> p = params(sample, first, arrays);
        const T* const x = at<T>(a.x, offset);
        T* const dx = at<T>(a.dx, offset);
        if (s.halo > 0) {
          fold_row(sample, block, folded.get());
          k.channel_backward_folded(s.activation, folded.get(), x, dx, count, c, p, mean_g, slant);
        } else {
          k.channel_backward(s.activation, at<T>(a.dy, offset), x, dx, count, c, p, mean_g, slant);
        }
      };
    });
  }

  void run() const {
    for (int64_t first = 0; first < s.n; first += group) {
      const int64_t last = std::min(s.n, first + group), samples = last - first;
      ChannelArrays<A> arrays;
      for (auto* array : {&arrays.scale, &arrays.shift, &arrays.mean_g, &arrays.slant}) {
        array->resize(static_cast<size_t>(samples * c));
      }
      for (int64_t i = 0; i < samples * c; ++i) {
        const int64_t plane = first * c + i;
        const PlaneParams<A> p = plane_params<A>(*at<A>(a.channels.mean, plane), *at<A>(a.channels.rstd, plane),
                                                 a.channels.weight, a.channels.bias, i % c, s.slope, streams);
        arrays.scale[static_cast<size_t>(i)] = p.scale;
        arrays.shift[static_cast<size_t>(i)] = p.shift;
      }
      const PartialSumsSpace partial(samples * blocks * 2 * c);
      group_sums(first, last, arrays, partial.get());
      group_finish(first, last, partial.get(), arrays);
      group_write(first, last, arrays);
    }
  }
};

template <class T>
void forward_as(const InstanceNormShape& shape, const InstanceNormForward& args) {
  if (shape.layout == Layout::nchw) {
    PlanesForward<T>{shape, args}.run();
  } else {
    PixelsForward<T>{shape, args}.run();
  }
}

template <class T>
void backward_as(const InstanceNormShape& shape, const InstanceNormBackward& args) {
  const int64_t planes = shape.n * shape.c;
  std::vector<double> sums(static_cast<size_t>(2 * planes));
  double* const sum_g = sums.data();
  double* const sum_gn = sums.data() + planes;
  if (shape.layout == Layout::nchw) {
    PlanesBackward<T>{shape, args, sum_g, sum_gn}.run();
  } else {
    PixelsBackward<T>{shape, args, sum_g, sum_gn}.run();
  }
  for (int64_t c = 0; c < shape.c; ++c) {
    double g = 0, gn = 0;
    for (int64_t n = 0; n < shape.n; ++n) {
      g += sum_g[n * shape.c + c];
      gn += sum_gn[n * shape.c + c];
    }
    if (args.dbias != nullptr) args.dbias[c] = g;
    if (args.dweight != nullptr) args.dweight[c] = gn;
  }
}

}  // namespace

void instance_norm_forward(const InstanceNormShape& shape, const InstanceNormForward& args) {
  with_type<float, BFloat16, double>(shape.dtype, [&](auto element) { forward_as<decltype(element)>(shape, args); });
}

void instance_norm_backward(const InstanceNormShape& shape, const InstanceNormBackward& args) {
  with_type<float, BFloat16, double>(shape.dtype, [&](auto element) { backward_as<decltype(element)>(shape, args); });
}

}  // namespace fastgan
