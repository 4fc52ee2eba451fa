// What the drivers of products of a matrix with few lines (experts.cpp, linear.cpp) and their kernels (matvec.inl) agree
// on.
#pragma once

#include <cstdint>

namespace foveate {

enum class WeightKind : int32_t { kFloat, kBfloat16, kInt8 };

// Rows of `depth` weights, one after another; of int8, row r counts times scales[r].
struct WeightRows {
  const void* data;
  const float* scales;
  int64_t depth;
  WeightKind kind;
};

// Lines of numbers, `depth` apart; `which` picks those that are multiplied. Of bf16 only with weights of bf16, by kernels
// that multiply pairs.
struct Lines {
  const void* data;
  const int64_t* which;
  int64_t count;
  bool bf16;
};

struct MatvecKernels {
  // out[n * out_row + r - begin] = row r times line which[n], rows [begin, end).
  void (*products)(const WeightRows&, int64_t begin, int64_t end, const Lines&, float* out, int64_t out_row);
  // out = silu(gate) * up.
  void (*gate)(const float* gate, const float* up, int64_t count, void* out, bool bf16);
  // f32 from bf16.
  void (*widen)(const uint16_t* from, int64_t count, float* to);
  // out [count] = values + bias, or values alone without a bias.
  void (*finish)(const float* values, const float* bias, int64_t count, void* out, bool bf16);
  // out [width] = sum over k of weights[k] * lines[which[k]], lines of f32, in the order of k.
  void (*weigh)(const Lines&, const float* weights, int64_t width, void* out, bool bf16);
  // Whether pairs of bf16 are multiplied as they lie.
  bool pairs;
};

}  // namespace foveate
