// What the drivers of products of a matrix with few lines (experts.cpp, linear.cpp) and their kernels (matvec.inl) agree
// on.
#pragma once

#include <cstdint>

namespace foveate {

enum class WeightKind : int32_t { kFloat, kBfloat16, kInt8, kNormalFloat4 };

// What codes of 4 bits stand for: NormalFloat4 (QLoRA, Dettmers et al., arXiv 2305.14314) in 127ths, whole numbers.
#define FOVEATE_NORMAL_FLOAT4 -127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127

// Weights of 4 bits that share a scale.
constexpr int64_t kCodeGroup = 64;

// Rows of `depth` weights, one after another; of int8, row r counts times scales[r], of 4 bits group g of it times
// scales[r * depth / kCodeGroup + g].
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

// Lines that a block of `pack` holds.
constexpr int64_t kBlockLines = 32;

// Floats of a block: pairs of numbers down, lines across, the depth filled up with zeros.
constexpr int64_t block_floats(int64_t depth) {
  return (depth / 2 + 15) / 16 * 16 * kBlockLines;
}

struct MatvecKernels {
  // out[n * out_row + r - begin] = row r times line which[n], rows [begin, end).
  void (*products)(const WeightRows&, int64_t begin, int64_t end, const Lines&, float* out, int64_t out_row);
  // Rows [begin, end) of weights of 4 bits as numbers, one after another.
  void (*numbers)(const WeightRows&, int64_t begin, int64_t end, void* out, bool bf16);
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
  // Null without tiles: lines first, first + 1, ... (up to kBlockLines) of an even depth and of bf16 to a block.
  void (*pack)(const Lines&, int64_t first, int64_t depth, float* block);
  // Null without tiles: as `products`, of 16 rows or more, of blocks that hold `count` lines.
  void (*packed_products)(const WeightRows&, int64_t begin, int64_t end, const float* blocks, int64_t count, float* out,
                          int64_t out_row);
};

}  // namespace foveate
