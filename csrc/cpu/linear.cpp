// A linear layer of few tokens: out = x weight^T + bias, everything between in f32. What is read is the weights, once.
// Equals: tests/references.py, linear.

#include "weights.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace foveate {
namespace {

void check_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  check_operand(x, "x");
  FOVEATE_CHECK_DIM(x, 2);
  FOVEATE_CHECK_DIM(weight, 2);
  STD_TORCH_CHECK(weight.size(1) == x.size(1), "weight must be [outputs, ", x.size(1), "] for x ", shape_text(x),
                  ", got shape ", shape_text(weight));
  if (bias.has_value()) {
    check_operand(*bias, "bias");
    STD_TORCH_CHECK(bias->scalar_type() == x.scalar_type() && bias->dim() == 1 && bias->size(0) == weight.size(0) &&
                        bias->is_contiguous(),
                    "bias must be contiguous [", weight.size(0), "] in the dtype of x, got shape ", shape_text(*bias));
  }
}

Tensor linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
              const std::optional<Tensor>& scales) {
  check_linear(x, weight, bias);
  const Matrices matrix = matrices_of(x, weight, scales, "weight");
  const Tensor input = torch::stable::contiguous(x);
  const int64_t count = x.size(0), outputs = matrix.rows;
  Tensor out = torch::stable::new_empty(input, {count, outputs});
  std::unique_ptr<float, Free> input_room, bias_room;
  std::vector<int64_t> itself(count);
  std::iota(itself.begin(), itself.end(), 0);
  const bool pairs = is_paired(input, matrix);
  const void* numbers = pairs ? input.const_data_ptr() : widened(input, input_room);
  const Lines lines = {numbers, itself.data(), count, pairs};
  const float* added = bias.has_value() ? widened(*bias, bias_room) : nullptr;
  const MatvecKernels& run = kernels().matvec;
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const int64_t bytes = is_bf16(x) ? 2 : 4;
  std::vector<std::pair<int64_t, int64_t>> parts;
  for (int64_t begin = 0; begin < outputs; begin += kRowsOfPart) {
    parts.emplace_back(begin, std::min(outputs, begin + kRowsOfPart));
  }
  const int64_t num_threads = outputs * matrix.depth < kLittle ? 1 : torch::stable::get_num_threads();
  share(parts, num_threads, kRowsOfPart * count, [&](const std::pair<int64_t, int64_t>& part, float* results) {
    const auto [begin, end] = part;
    run.products(matrix.of(0), begin, end, lines, results, kRowsOfPart);
    for (int64_t n = 0; n < count; ++n) {
      run.finish(results + n * kRowsOfPart, added == nullptr ? nullptr : added + begin, end - begin,
                 to + (n * outputs + begin) * bytes, is_bf16(x));
    }
  });
  return out;
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("linear", TORCH_BOX(&foveate::linear));
}
