// RMSNorm, forward and backward, with an optional residual that is added first.
//
//   normed = x * inverse_rms * weight,   inverse_rms = 1 / sqrt(mean(x^2) + eps)
//
// Layout:  x is [..., D], read as R rows of D contiguous numbers; weight is [D].
// Tiling:  rows are split among torch's threads. A row is read twice (sum of squares, then scale); the second read
//          comes from L1 or L2, so DRAM sees each number once in and once out.
// Bound:   memory, 8 bytes a number in f32 against about 4 flops; in bf16 widening and rounding where one thread has AVX2.
// Numbers: bf16 and f32 accumulate in f32 (pointwise.inl), f64 in f64, number by number on one thread: it is there for
//          gradcheck. One rounding, at the end.
// Order:   sums run in an order that depends on R and D only, so any number of threads gives the same bits.
// Equals:  tests/references.py, rms_norm.

#include "kernels.h"
#include "operands.h"
#include "share.h"
#include "weights.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

namespace foveate {
namespace {

constexpr int64_t kBlockRows = 32;   // rows that share one partial sum of grad_weight, at least
constexpr int64_t kMaxBlocks = 128;  // bounds the scratch of these partial sums

int64_t ceil_div(int64_t value, int64_t by) {
  return (value + by - 1) / by;
}

bool is_f64(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double;
}

ScalarType accumulator_of(const Tensor& x) {
  return is_f64(x) ? ScalarType::Double : ScalarType::Float;
}

void check_inputs(const Tensor& x, const Tensor& weight) {
  FOVEATE_CHECK_CPU(x);
  FOVEATE_CHECK_CPU(weight);
  FOVEATE_CHECK_DIM(weight, 1);
  STD_TORCH_CHECK(is_bf16(x) || is_f64(x) || x.scalar_type() == ScalarType::Float,
                  "x must be bfloat16, float32 or float64, got ", dtype_text(x.scalar_type()),
                  "; convert it with .to(torch.float32)");
  STD_TORCH_CHECK(x.dim() >= 1, "x must have at least 1 dimension, got shape []");
  STD_TORCH_CHECK(x.size(x.dim() - 1) == weight.size(0), "x must end in the size of weight, ", weight.size(0),
                  ", got shape ", shape_text(x));
  STD_TORCH_CHECK(weight.size(0) > 0, "weight must hold at least one number, got shape [0]");
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type() || weight.scalar_type() == ScalarType::Float,
                  "weight must have the dtype of x, ", dtype_text(x.scalar_type()), ", or be float32; got ",
                  dtype_text(weight.scalar_type()), ", convert it with .to(x.dtype)");
}

// residual and total are null together; else total receives x + residual, rounded, and that is what is normalised.
void forward_f64(const Tensor& x, const Tensor* residual, const Tensor& weight, double eps, Tensor& normed,
                 Tensor* total, Tensor& inverse_rms) {
  const int64_t width = weight.size(0);
  const Tensor wide = torch::stable::to(weight, ScalarType::Double);
  const double *scale = wide.const_data_ptr<double>(), *from = x.const_data_ptr<double>();
  double *out = normed.mutable_data_ptr<double>(), *inverse = inverse_rms.mutable_data_ptr<double>();
  if (total != nullptr) {
    double* sums = total->mutable_data_ptr<double>();
    std::transform(from, from + x.numel(), residual->const_data_ptr<double>(), sums, std::plus<>());
    from = sums;
  }
  for (int64_t row = 0; row < inverse_rms.numel(); ++row, from += width, out += width) {
    const double squares = std::inner_product(from, from + width, from, 0.0);
    inverse[row] = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
    for (int64_t d = 0; d < width; ++d) {
      out[d] = from[d] * inverse[row] * scale[d];
    }
  }
}

// As above; x, residual and weight have no gaps.
void forward(const Tensor& x, const Tensor* residual, const Tensor& weight, double eps, Tensor& normed, Tensor* total,
             Tensor& inverse_rms) {
  if (is_f64(x)) {
    return forward_f64(x, residual, weight, eps, normed, total, inverse_rms);
  }
  std::unique_ptr<float, Free> room;
  const int64_t width = weight.size(0);
  const Norm problem = {x.const_data_ptr(),
                        residual == nullptr ? nullptr : residual->const_data_ptr(),
                        widened(weight, room),
                        total == nullptr ? nullptr : total->mutable_data_ptr(),
                        normed.mutable_data_ptr(),
                        inverse_rms.mutable_data_ptr<float>(),
                        width,
                        static_cast<float>(eps),
                        is_bf16(x)};
  torch::stable::parallel_for(0, inverse_rms.numel(), grain_of(width), [&](int64_t begin, int64_t end) {
    kernels().pointwise.norm(problem, begin, end);
  });
}

Tensor empty_inverse(const Tensor& x) {
  const std::vector<int64_t> rows(x.sizes().begin(), x.sizes().end() - 1);
  return torch::stable::new_empty(x, rows, accumulator_of(x));
}

std::tuple<Tensor, Tensor> rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  check_inputs(x, weight);
  const Tensor input = torch::stable::contiguous(x);
  Tensor normed = torch::stable::empty_like(input), inverse_rms = empty_inverse(input);
  forward(input, nullptr, torch::stable::contiguous(weight), eps, normed, nullptr, inverse_rms);
  return {normed, inverse_rms};
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight,
                                                double eps) {
  check_inputs(x, weight);
  FOVEATE_CHECK_CPU(residual);
  FOVEATE_CHECK_SAME_SHAPE(residual, x);
  FOVEATE_CHECK_SAME_DTYPE(residual, x);
  const Tensor input = torch::stable::contiguous(x), addend = torch::stable::contiguous(residual);
  Tensor normed = torch::stable::empty_like(input), total = torch::stable::empty_like(input);
  Tensor inverse_rms = empty_inverse(input);
  forward(input, &addend, torch::stable::contiguous(weight), eps, normed, &total, inverse_rms);
  return {normed, total, inverse_rms};
}

struct Gradients {
  Tensor x, weight;
};

// What rms_norm_backward is given, without gaps.
struct BackwardInputs {
  Tensor grad_normed;
  std::optional<Tensor> grad_total;
  Tensor x, weight, inverse_rms;
};

// As norm_row_backward in pointwise.inl.
Gradients backward_f64(const BackwardInputs& inputs) {
  const int64_t width = inputs.weight.size(0);
  const Tensor wide = torch::stable::to(inputs.weight, ScalarType::Double);
  Tensor grad_x = torch::stable::empty_like(inputs.x), grad_weight = torch::stable::new_zeros(wide, {width});
  const double *scale = wide.const_data_ptr<double>(), *inverse = inputs.inverse_rms.const_data_ptr<double>();
  double* sums = grad_weight.mutable_data_ptr<double>();
  for (int64_t row = 0; row < inputs.inverse_rms.numel(); ++row) {
    const double* grad = inputs.grad_normed.const_data_ptr<double>() + row * width;
    const double* x = inputs.x.const_data_ptr<double>() + row * width;
    double* out = grad_x.mutable_data_ptr<double>() + row * width;
    double dot = 0;
    for (int64_t d = 0; d < width; ++d) {
      dot += grad[d] * scale[d] * x[d];
      sums[d] += grad[d] * x[d] * inverse[row];
    }
    const double pull = inverse[row] * inverse[row] * dot / static_cast<double>(width);
    for (int64_t d = 0; d < width; ++d) {
      const double passed = inputs.grad_total ? inputs.grad_total->const_data_ptr<double>()[row * width + d] : 0.0;
      out[d] = inverse[row] * (grad[d] * scale[d] - x[d] * pull) + passed;
    }
  }
  return {grad_x, torch::stable::to(grad_weight, inputs.weight.scalar_type())};
}

Gradients backward(const BackwardInputs& inputs) {
  if (is_f64(inputs.x)) {
    return backward_f64(inputs);
  }
  const int64_t width = inputs.weight.size(0), num_rows = inputs.inverse_rms.numel();
  const int64_t block_rows = std::max(kBlockRows, ceil_div(num_rows, kMaxBlocks));
  const int64_t num_blocks = ceil_div(num_rows, block_rows);
  Gradients gradients = {torch::stable::empty_like(inputs.x), torch::stable::empty_like(inputs.weight)};
  std::unique_ptr<float, Free> room;
  const auto partial = aligned_floats(num_blocks * width);
  const NormGradients problem = {inputs.grad_normed.const_data_ptr(),
                                 inputs.grad_total ? inputs.grad_total->const_data_ptr() : nullptr,
                                 inputs.x.const_data_ptr(),
                                 widened(inputs.weight, room),
                                 inputs.inverse_rms.const_data_ptr<float>(),
                                 gradients.x.mutable_data_ptr(),
                                 partial.get(),
                                 gradients.weight.mutable_data_ptr(),
                                 num_rows,
                                 num_blocks,
                                 block_rows,
                                 width,
                                 is_bf16(inputs.x),
                                 is_bf16(inputs.weight)};
  const PointwiseKernels& run = kernels().pointwise;
  torch::stable::parallel_for(0, num_blocks, grain_of(block_rows * width), [&](int64_t begin, int64_t end) {
    run.norm_backward(problem, begin, end);
  });
  torch::stable::parallel_for(0, width, grain_of(num_blocks), [&](int64_t begin, int64_t end) {
    run.norm_grad_weight(problem, begin, end);
  });
  return gradients;
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad_normed, const std::optional<Tensor>& grad_total,
                                             const Tensor& x, const Tensor& weight, const Tensor& inverse_rms) {
  check_inputs(x, weight);
  FOVEATE_CHECK_CPU(grad_normed);
  FOVEATE_CHECK_SAME_SHAPE(grad_normed, x);
  FOVEATE_CHECK_SAME_DTYPE(grad_normed, x);
  if (grad_total.has_value()) {
    check_cpu(*grad_total, "grad_total");
    check_same_shape(*grad_total, "grad_total", x, "x");
    check_same_dtype(*grad_total, "grad_total", x, "x");
  }
  FOVEATE_CHECK_CPU(inverse_rms);
  STD_TORCH_CHECK(inverse_rms.numel() * weight.size(0) == x.numel() && inverse_rms.scalar_type() == accumulator_of(x),
                  "inverse_rms must be ", dtype_text(accumulator_of(x)), " with one number a row of x ", shape_text(x),
                  ", got ", tensor_text(inverse_rms));
  const auto dense = [](const Tensor& tensor) { return torch::stable::contiguous(tensor); };  // .sum() gives stride 0
  const Gradients gradients =
      backward({dense(grad_normed), grad_total ? std::optional(dense(*grad_total)) : std::nullopt, dense(x),
                dense(weight), dense(inverse_rms)});
  return {gradients.x, gradients.weight};
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&foveate::rms_norm));
  m.impl("add_rms_norm", TORCH_BOX(&foveate::add_rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&foveate::rms_norm_backward));
}
