// Checks on the arguments of an operation. Each message names the argument, the value got and the value wanted.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <string>

namespace foveate {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// As Python calls it.
inline const char* dtype_text(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    default:
      return "another dtype";
  }
}

inline std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    text += (dim == 0 ? "" : ", ") + std::to_string(tensor.size(dim));
  }
  return text + "]";
}

// What a tensor is, shape, dtype and whether it has gaps.
inline std::string tensor_text(const Tensor& tensor) {
  const std::string text = "shape " + shape_text(tensor) + " of " + dtype_text(tensor.scalar_type());
  return tensor.is_contiguous() ? text : text + ", not contiguous";
}

inline bool same_shape(const Tensor& left, const Tensor& right) {
  if (left.dim() != right.dim()) {
    return false;
  }
  for (int64_t dim = 0; dim < left.dim(); ++dim) {
    if (left.size(dim) != right.size(dim)) {
      return false;
    }
  }
  return true;
}

// Whether the shapes are one but for the last dimension, which is half as large in `half`.
inline bool is_half_as_wide(const Tensor& half, const Tensor& whole) {
  const int64_t dims = whole.dim();
  bool fits = dims > 0 && half.dim() == dims && 2 * half.size(dims - 1) == whole.size(dims - 1);
  for (int64_t dim = 0; fits && dim < dims - 1; ++dim) {
    fits = half.size(dim) == whole.size(dim);
  }
  return fits;
}

inline void check_cpu(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, " must be a CPU tensor; move it with .cpu()");
}

inline void check_same_shape(const Tensor& tensor, const char* name, const Tensor& other, const char* other_name) {
  STD_TORCH_CHECK(same_shape(tensor, other), name, " must have the shape of ", other_name, " ", shape_text(other),
                  ", got ", shape_text(tensor));
}

inline void check_same_dtype(const Tensor& tensor, const char* name, const Tensor& other, const char* other_name) {
  STD_TORCH_CHECK(tensor.scalar_type() == other.scalar_type(), name, " must have the dtype of ", other_name, ", ",
                  dtype_text(other.scalar_type()), "; got ", dtype_text(tensor.scalar_type()), ", convert it with .to(",
                  other_name, ".dtype)");
}

}  // namespace foveate

#define FOVEATE_CHECK_CPU(tensor) foveate::check_cpu(tensor, #tensor)

#define FOVEATE_CHECK_DIM(tensor, wanted)                                    \
  STD_TORCH_CHECK((tensor).dim() == (wanted), #tensor " must have ", wanted, \
                  " dimension(s), got shape ", foveate::shape_text(tensor))

#define FOVEATE_CHECK_SAME_SHAPE(tensor, other) foveate::check_same_shape(tensor, #tensor, other, #other)

#define FOVEATE_CHECK_SAME_DTYPE(tensor, other) foveate::check_same_dtype(tensor, #tensor, other, #other)
