// Weights as products with few lines take them: of the dtype of the lines, or int8 with a scale for each row.
#pragma once

#include "kernels.h"
#include "operands.h"
#include "share.h"

#include <memory>
#include <optional>

namespace foveate {

constexpr int64_t kRowsOfPart = 32;
constexpr int64_t kLittle = 1 << 16;  // weights below which threads cost more than they bring

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
                  " must be a contiguous CPU tensor [..., rows, width], got shape ", shape_text(weights));
  const int64_t rows = weights.size(weights.dim() - 2), depth = weights.size(weights.dim() - 1);
  const char* data = static_cast<const char*>(weights.const_data_ptr());
  if (!scales.has_value()) {
    STD_TORCH_CHECK(weights.scalar_type() == x.scalar_type(), name, " must have x's dtype, or be int8 with scales");
    return {data, nullptr, rows, depth, is_bf16(x) ? WeightKind::kBfloat16 : WeightKind::kFloat};
  }
  STD_TORCH_CHECK(weights.scalar_type() == ScalarType::Char, name, " with scales must be int8");
  bool fits = scales->dim() == weights.dim() - 1;
  for (int64_t at = 0; fits && at < scales->dim(); ++at) {
    fits = scales->size(at) == weights.size(at);
  }
  STD_TORCH_CHECK(scales->is_cpu() && scales->scalar_type() == ScalarType::Float && scales->is_contiguous() && fits,
                  "the scales of ", name, " must be contiguous float32 on the CPU, one for each row of ",
                  shape_text(weights), ", got shape ", shape_text(*scales));
  return {data, scales->const_data_ptr<float>(), rows, depth, WeightKind::kInt8};
}

// Whether lines of the dtype of x are multiplied with these as they lie.
inline bool is_paired(const Tensor& x, const Matrices& matrices) {
  return kernels().matvec.pairs && is_bf16(x) && matrices.kind == WeightKind::kBfloat16;
}

// x in f32: itself, or a copy that `room` holds.
inline const float* widened(const Tensor& x, std::unique_ptr<float, Free>& room) {
  if (!is_bf16(x)) {
    return x.const_data_ptr<float>();
  }
  room = aligned_floats(x.numel());
  kernels().matvec.widen(static_cast<const uint16_t*>(x.const_data_ptr()), x.numel(), room.get());
  return room.get();
}

}  // namespace foveate
