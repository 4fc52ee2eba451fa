// Weights as products with few lines take them: of the dtype of the lines, or int8 with a scale for each row.
#pragma once

#include "kernels.h"
#include "operands.h"
#include "share.h"

#include <memory>
#include <optional>
#include <vector>

namespace foveate {

constexpr int64_t kRowsOfPart = 32, kLeastRows = 16;  // of a matrix, in one part of the work
constexpr int64_t kLittle = 1 << 16;  // weights below which threads cost more than they bring

// Where a part of so many rows ends; the last one takes up to kLeastRows more, so that none has fewer.
inline int64_t end_of_part(int64_t begin, int64_t part, int64_t rows) {
  return rows - begin < part + kLeastRows ? rows : begin + part;
}

// Matrices one after another, of `rows` rows each.
struct Matrices {
  const char* data;
  const float* scales;
  int64_t rows, depth;
  WeightKind kind;

  WeightRows of(int64_t index) const {
    const int64_t bytes = kind == WeightKind::kFloat ? 4 : kind == WeightKind::kBfloat16 ? 2 : 1;
    const float* own = scales == nullptr ? nullptr : scales + index * rows;
    return {data + index * rows * depth * bytes, own, depth, kind};
  }
};

// From weights [..., R, D] for lines of the dtype of x, and scales [..., R] of int8.
inline Matrices matrices_of(const Tensor& x, const Tensor& weights, const std::optional<Tensor>& scales,
                            const char* name) {
  STD_TORCH_CHECK(weights.is_cpu() && weights.dim() >= 2 && weights.is_contiguous(), name,
                  " must be a contiguous CPU tensor [..., rows, width], got ", tensor_text(weights));
  const int64_t rows = weights.size(weights.dim() - 2), depth = weights.size(weights.dim() - 1);
  const char* data = static_cast<const char*>(weights.const_data_ptr());
  if (!scales.has_value()) {
    STD_TORCH_CHECK(weights.scalar_type() == x.scalar_type(), name,
                    " must have x's dtype, or be int8 with scales; x has ", dtype_text(x.scalar_type()), ", got ",
                    dtype_text(weights.scalar_type()));
    return {data, nullptr, rows, depth, is_bf16(x) ? WeightKind::kBfloat16 : WeightKind::kFloat};
  }
  STD_TORCH_CHECK(weights.scalar_type() == ScalarType::Char, name, " with scales must be int8, got ",
                  dtype_text(weights.scalar_type()));
  bool fits = scales->dim() == weights.dim() - 1;
  for (int64_t at = 0; fits && at < scales->dim(); ++at) {
    fits = scales->size(at) == weights.size(at);
  }
  STD_TORCH_CHECK(scales->is_cpu() && scales->scalar_type() == ScalarType::Float && scales->is_contiguous() && fits,
                  "the scales of ", name, " must be contiguous float32 on the CPU, one for each row of ",
                  shape_text(weights), ", got ", tensor_text(*scales));
  return {data, scales->const_data_ptr<float>(), rows, depth, WeightKind::kInt8};
}

// Whether lines of the dtype of x are multiplied with these as they lie.
inline bool is_paired(const Tensor& x, const Matrices& matrices) {
  return kernels().matvec.pairs && is_bf16(x) && matrices.kind == WeightKind::kBfloat16;
}

// Lines from which on tiles are faster than reading the weights once for all lines.
constexpr int64_t kManyLines = 12;

// Whether products with so many lines of the dtype of x are made on tiles.
inline bool is_tiled(const Matrices& matrices, bool pairs, int64_t count) {
  return kernels().matvec.pack != nullptr && pairs && matrices.depth % 2 == 0 && matrices.rows >= kLeastRows &&
         count >= kManyLines;
}

// All lines in blocks for tiles.
inline std::unique_ptr<float, Free> packed(const Lines& lines, int64_t depth, int64_t num_threads) {
  auto blocks = aligned_floats((lines.count + kBlockLines - 1) / kBlockLines * block_floats(depth));
  std::vector<int64_t> firsts;
  for (int64_t first = 0; first < lines.count; first += kBlockLines) {
    firsts.push_back(first);
  }
  share(firsts, num_threads, 0, [&](int64_t first, float*) {
    kernels().matvec.pack(lines, first, depth, blocks.get() + first / kBlockLines * block_floats(depth));
  });
  return blocks;
}

// x in f32: itself, or a copy that `room` holds.
inline const float* widened(const Tensor& x, std::unique_ptr<float, Free>& room) {
  if (!is_bf16(x)) {
    return x.const_data_ptr<float>();
  }
  room = aligned_floats(x.numel());
  const uint16_t* from = static_cast<const uint16_t*>(x.const_data_ptr());
  torch::stable::parallel_for(0, x.numel(), grain_of(1), [&](int64_t begin, int64_t end) {
    kernels().matvec.widen(from + begin, end - begin, room.get() + begin);
  });
  return room.get();
}

}  // namespace foveate
