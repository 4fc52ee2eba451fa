// Weights as products with few lines take them: of the dtype of the lines, int8 with a scale for each row, or of 4 bits,
// two in a byte, with a scale for each group.
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
    constexpr int64_t kBits[] = {32, 16, 8, 4};  // in the order of WeightKind
    const int64_t each = kind == WeightKind::kNormalFloat4 ? depth / kCodeGroup : 1;
    const float* own = scales == nullptr ? nullptr : scales + index * rows * each;
    return {data + index * rows * depth * kBits[static_cast<int>(kind)] / 8, own, depth, kind};
  }
};

// Whether `scales` are those of `weights`: one for each row, or of bytes that hold two weights for each group of a row.
inline bool are_scales(const Tensor& scales, const Tensor& weights, bool grouped) {
  const int64_t dims = weights.dim() - (grouped ? 0 : 1);
  bool fits = scales.dim() == dims && scales.is_cpu() && scales.scalar_type() == ScalarType::Float &&
              scales.is_contiguous();
  for (int64_t at = 0; fits && at < weights.dim() - 1; ++at) {
    fits = scales.size(at) == weights.size(at);
  }
  return fits && (!grouped || scales.size(dims - 1) * kCodeGroup == 2 * weights.size(dims - 1));
}

// From weights [..., R, D] for lines of the dtype of x, or of int8 with scales [..., R], or bytes [..., R, D / 2] with
// scales [..., R, D / kCodeGroup].
inline Matrices matrices_of(const Tensor& x, const Tensor& weights, const std::optional<Tensor>& scales,
                            const char* name) {
  STD_TORCH_CHECK(weights.is_cpu() && weights.dim() >= 2 && weights.is_contiguous(), name,
                  " must be a contiguous CPU tensor [..., rows, width], got ", tensor_text(weights));
  const int64_t rows = weights.size(weights.dim() - 2), depth = weights.size(weights.dim() - 1);
  const char* data = static_cast<const char*>(weights.const_data_ptr());
  if (!scales.has_value()) {
    STD_TORCH_CHECK(weights.scalar_type() == x.scalar_type(), name,
                    " must have x's dtype, or be int8 or uint8 with scales; x has ", dtype_text(x.scalar_type()),
                    ", got ", dtype_text(weights.scalar_type()));
    return {data, nullptr, rows, depth, is_bf16(x) ? WeightKind::kBfloat16 : WeightKind::kFloat};
  }
  const bool grouped = weights.scalar_type() == ScalarType::Byte;
  STD_TORCH_CHECK(grouped || weights.scalar_type() == ScalarType::Char, name,
                  " with scales must be int8, or uint8 of two weights a byte, got ", dtype_text(weights.scalar_type()));
  STD_TORCH_CHECK(are_scales(*scales, weights, grouped), "the scales of ", name,
                  " must be contiguous float32 on the CPU, one for each ",
                  grouped ? "group of 64 weights, two in a byte, in a row of " : "row of ", shape_text(weights), ", got ",
                  tensor_text(*scales));
  const float* numbers = scales->const_data_ptr<float>();
  return grouped ? Matrices{data, numbers, rows, 2 * depth, WeightKind::kNormalFloat4}
                 : Matrices{data, numbers, rows, depth, WeightKind::kInt8};
}

// Whether lines of the dtype of x are multiplied as they lie: with weights of bf16, or that are looked up in bf16.
inline bool is_paired(const Tensor& x, const Matrices& matrices) {
  const bool halves = matrices.kind == WeightKind::kBfloat16 || matrices.kind == WeightKind::kNormalFloat4;
  return kernels().matvec.pairs && is_bf16(x) && halves;
}

// Lines from which on tiles are faster than reading the weights once for all lines.
constexpr int64_t kManyLines = 12;

// Whether products with so many lines of the dtype of x are made on tiles.
inline bool is_tiled(const Matrices& matrices, bool pairs, int64_t count) {
  return kernels().matvec.pack != nullptr && pairs && matrices.kind == WeightKind::kBfloat16 &&
         matrices.depth % 2 == 0 && matrices.rows >= kLeastRows && count >= kManyLines;
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
