// A convolution by taps: which source pixels each target pixel sums up. See conv_transpose2d.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "conv_transpose2d_shape.h"

namespace fastgan {

struct Range {
  int64_t first, last;
};

struct Tap {
  int64_t index;   // in the weight
  int64_t offset;  // source pixel for the first target pixel of its phase
};

// Target pixels first, first + target_step, ... along one axis, which share their taps (offsets ascend).
struct Phase {
  int64_t first, count;
  std::vector<Tap> taps;
};

struct Side {
  int64_t channels;  // of a group
  int64_t size[2];
};

// Strides of the weight, by the channel's role, and its taps, row by row. Either the taps or one of the channels are
// adjacent.
struct WeightStrides {
  int64_t group, source, target, tap;
  int64_t taps, columns;
};

struct Job {
  Layout layout;
  int64_t n, groups;
  Side source, target;
  int64_t source_step[2];  // source pixels from one target pixel of a phase to the next
  int64_t target_step[2];
  std::vector<Phase> rows, columns;
  WeightStrides weight;
  Activation activation;
  double slope;

  // Of all phases.
  int64_t taps() const {
    int64_t r = 0, c = 0;
    for (const Phase& phase : rows) r += static_cast<int64_t>(phase.taps.size());
    for (const Phase& phase : columns) c += static_cast<int64_t>(phase.taps.size());
    return r * c;
  }

  // The lowest and the highest offset of the taps; 0 to 0 where there are none.
  static Range offsets(const std::vector<Phase>& phases) {
    bool found = false;
    Range range{0, 0};
    for (const Phase& phase : phases) {
      for (const Tap& tap : phase.taps) {
        range.first = found ? std::min(range.first, tap.offset) : tap.offset;
        range.last = found ? std::max(range.last, tap.offset) : tap.offset;
        found = true;
      }
    }
    return range;
  }
  Range row_offsets() const { return offsets(rows); }
  Range column_offsets() const { return offsets(columns); }

  int64_t most_rows() const {
    int64_t most = 0;
    for (const Phase& phase : rows) most = std::max(most, phase.count);
    return most;
  }

  // Source columns, from the lowest offset to the last one that any target pixel sees.
  int64_t staged_width() const {
    int64_t most = 0;
    for (const Phase& phase : columns) most = std::max(most, phase.count);
    const Range range = column_offsets();
    return (most - 1) * source_step[1] + range.last - range.first + 1;
  }

  // Whether the tap columns of every phase are neighbours in the source.
  bool columns_adjacent() const {
    for (const Phase& phase : columns) {
      for (size_t i = 1; i < phase.taps.size(); ++i) {
        if (phase.taps[i].offset != phase.taps[i - 1].offset + 1) return false;
      }
    }
    return true;
  }
};

inline std::vector<Phase> forward_phases(const ConvTranspose2dShape& s, int axis) {
  std::vector<Phase> phases;
  const int64_t stride = s.stride[axis];
  for (int64_t first = 0; first < std::min(stride, s.out[axis]); ++first) {
    Phase phase{first, (s.out[axis] - first + stride - 1) / stride, {}};
    for (int64_t k = s.kernel[axis] - 1; k >= 0; --k) {
      const int64_t offset = first + s.padding[axis] - k * s.dilation[axis];
      if (offset % stride == 0) phase.taps.push_back({k, offset / stride});
    }
    phases.push_back(phase);
  }
  return phases;
}

inline std::vector<Phase> input_gradient_phases(const ConvTranspose2dShape& s, int axis) {
  Phase phase{0, s.in[axis], {}};
  for (int64_t k = 0; k < s.kernel[axis]; ++k) phase.taps.push_back({k, k * s.dilation[axis] - s.padding[axis]});
  return {phase};
}

inline Job forward_job(const ConvTranspose2dShape& s) {
  const int64_t in = s.c_in / s.groups, out = s.c_out / s.groups;
  return {s.layout,
          s.n,
          s.groups,
          {in, {s.in[0], s.in[1]}},
          {out, {s.out[0], s.out[1]}},
          {1, 1},
          {s.stride[0], s.stride[1]},
          forward_phases(s, 0),
          forward_phases(s, 1),
          {in * s.weight_stride[0], s.weight_stride[0], s.weight_stride[1], s.weight_stride[3],
           s.kernel[0] * s.kernel[1], s.kernel[1]},
          s.activation,
          s.slope};
}

inline Job input_gradient_job(const ConvTranspose2dShape& s) {
  const int64_t in = s.c_in / s.groups, out = s.c_out / s.groups;
  return {s.layout,
          s.n,
          s.groups,
          {out, {s.out[0], s.out[1]}},
          {in, {s.in[0], s.in[1]}},
          {s.stride[0], s.stride[1]},
          {1, 1},
          input_gradient_phases(s, 0),
          input_gradient_phases(s, 1),
          {in * s.weight_stride[0], s.weight_stride[1], s.weight_stride[0], s.weight_stride[3],
           s.kernel[0] * s.kernel[1], s.kernel[1]},
          Activation::none,
          0.0};
}

}  // namespace fastgan
