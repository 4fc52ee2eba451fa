// Weights of 4 bits as numbers, for products with many tokens, which are torch's.
// Equals: foveate.ops.nf4, in plain PyTorch.

#include "weights.h"

#include <torch/csrc/stable/library.h>

#include <vector>

namespace foveate {
namespace {

Tensor nf4_numbers(const Tensor& codes, const Tensor& scales, bool bf16) {
  STD_TORCH_CHECK(codes.is_cpu() && codes.scalar_type() == ScalarType::Byte && codes.dim() >= 2 &&
                      codes.is_contiguous(),
                  "codes must be a contiguous uint8 CPU tensor [..., rows, width / 2], got ", tensor_text(codes));
  STD_TORCH_CHECK(are_scales(scales, codes, true),
                  "scales must be contiguous float32 on the CPU, one for each group of 64 weights, two in a byte, in a ",
                  "row of ", shape_text(codes), ", got ", tensor_text(scales));
  std::vector<int64_t> shape(codes.sizes().begin(), codes.sizes().end());
  shape.back() *= 2;
  Tensor out = torch::stable::new_empty(codes, shape, bf16 ? ScalarType::BFloat16 : ScalarType::Float);
  const int64_t width = shape.back(), bytes = bf16 ? 2 : 4;
  const WeightRows weights = {codes.const_data_ptr(), scales.const_data_ptr<float>(), width,
                              WeightKind::kNormalFloat4};
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const int64_t rows = width == 0 ? 0 : out.numel() / width;
  torch::stable::parallel_for(0, rows, grain_of(width), [&](int64_t begin, int64_t end) {
    kernels().matvec.numbers(weights, begin, end, to + begin * width * bytes, bf16);
  });
  return out;
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("nf4_numbers", TORCH_BOX(&foveate::nf4_numbers));
}
