// What resize.cpp and its kernels agree on. Plain data, as all that crosses into the units of an instruction set.
#pragma once

#include <cstdint>

namespace foveate {

constexpr int kWeightBits = 22;  // of a weight below its point: with 8 of a byte, two are left for sign and overshoot

// New line n sums the count[n] old ones from first[n] on, each by its weight.
struct Windows {
  const int64_t *first, *count;
  const int32_t* weights;  // [new lines, most]
  int64_t most;
};

// Rows of a picture, at most as many as a kernel takes.
struct PixelRows {
  const uint8_t* from;  // [count, width, channels], of which the first three are kept
  uint8_t* to;          // [count, new_width, 3]
  int64_t count, width, new_width, channels;
};

struct ResizeKernels {
  // from [old lines, bytes] to the new lines [begin, end) of [new lines, bytes].
  void (*blend_lines)(const Windows&, const uint8_t* from, uint8_t* to, int64_t bytes, int64_t begin, int64_t end);
  // scratch: [num_rows, width + new_width, 4].
  void (*blend_rows)(const Windows&, const PixelRows&, uint8_t* scratch);
  int64_t num_rows;  // that blend_rows takes
};

}  // namespace foveate
