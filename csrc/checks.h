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

inline std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    text += (dim == 0 ? "" : ", ") + std::to_string(tensor.size(dim));
  }
  return text + "]";
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

}  // namespace foveate

#define FOVEATE_CHECK_CPU(tensor) \
  STD_TORCH_CHECK((tensor).is_cpu(), #tensor " must be a CPU tensor; move it with .cpu()")

#define FOVEATE_CHECK_DIM(tensor, wanted)                                             \
  STD_TORCH_CHECK((tensor).dim() == (wanted), #tensor " must have ", wanted,          \
                  " dimension(s), got shape ", foveate::shape_text(tensor))

#define FOVEATE_CHECK_SAME_SHAPE(tensor, other)                                       \
  STD_TORCH_CHECK(foveate::same_shape(tensor, other), #tensor " must have the shape of " #other " ", \
                  foveate::shape_text(other), ", got ", foveate::shape_text(tensor))

#define FOVEATE_CHECK_SAME_DTYPE(tensor, other)                               \
  STD_TORCH_CHECK((tensor).scalar_type() == (other).scalar_type(),            \
                  #tensor " must have the dtype of " #other "; convert it with .to(" #other ".dtype)")
