// Tensors as the kernels take them: bf16 or f32, numbers of a row side by side.
#pragma once

#include "../checks.h"
#include "rows.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace foveate {

inline void check_operand(const Tensor& x, const char* name) {
  check_cpu(x, name);
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16 || x.scalar_type() == ScalarType::Float, name,
                  " must be bfloat16 or float32, got ", dtype_text(x.scalar_type()),
                  "; convert it with .to(torch.float32)");
}

// Cosines or sines: a line of `half` angles for each token.
inline void check_table(const Tensor& table, int64_t num_tokens, int64_t half, const char* name) {
  check_cpu(table, name);
  STD_TORCH_CHECK(table.scalar_type() == ScalarType::Float && table.dim() == 2 && table.size(0) == num_tokens &&
                      table.size(1) == half,
                  name, " must be float32 [", num_tokens, ", ", half, "], got ", tensor_text(table));
}

inline bool is_bf16(const Tensor& x) {
  return x.scalar_type() == ScalarType::BFloat16;
}

inline Tensor with_dense_rows(const Tensor& x) {
  return x.dim() > 0 && x.stride(x.dim() - 1) == 1 ? x : torch::stable::contiguous(x);
}

// [T, H, D] in any strides but that of the last dimension, which is 1.
inline Rows heads_of(const Tensor& x) {
  return {const_cast<void*>(x.const_data_ptr()), x.stride(0), x.stride(1)};
}

// Rows of `numbers` each that are worth a thread.
inline int64_t grain_of(int64_t numbers) {
  constexpr int64_t kGrainNumbers = 16384;
  return std::max<int64_t>(1, kGrainNumbers / std::max<int64_t>(1, numbers));
}

}  // namespace foveate
