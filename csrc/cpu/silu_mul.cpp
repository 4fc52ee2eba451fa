// The gate of a SwiGLU: silu(gate) * up over [..., 2 * I] that holds gate, then up; forward and backward.
// Equals: tests/references.py, silu_mul.

#include "kernels.h"
#include "operands.h"

#include <torch/csrc/stable/library.h>

#include <vector>

namespace foveate {
namespace {

int64_t last(const Tensor& x) {
  return x.size(x.dim() - 1);
}

void check_gate_up(const Tensor& gate_up) {
  check_operand(gate_up, "gate_up");
  STD_TORCH_CHECK(gate_up.dim() >= 1 && last(gate_up) > 0 && last(gate_up) % 2 == 0,
                  "gate_up must end in an even size of at least 2, got shape ", shape_text(gate_up));
}

Tensor silu_mul(const Tensor& gate_up) {
  check_gate_up(gate_up);
  const Tensor input = torch::stable::contiguous(gate_up);
  const int64_t width = last(input) / 2;
  std::vector<int64_t> shape(input.sizes().begin(), input.sizes().end());
  shape.back() = width;
  Tensor out = torch::stable::new_empty(input, shape);
  const Gating problem = {input.const_data_ptr(), nullptr, out.mutable_data_ptr(), width, is_bf16(input)};
  torch::stable::parallel_for(0, out.numel() / width, grain_of(width), [&](int64_t begin, int64_t end) {
    kernels().pointwise.silu_mul(problem, begin, end);
  });
  return out;
}

Tensor silu_mul_backward(const Tensor& grad, const Tensor& gate_up) {
  check_gate_up(gate_up);
  check_operand(grad, "grad");
  FOVEATE_CHECK_SAME_DTYPE(grad, gate_up);
  STD_TORCH_CHECK(is_half_as_wide(grad, gate_up),
                  "grad must have the shape of silu_mul's result for gate_up ", shape_text(gate_up), ", got ",
                  shape_text(grad));
  const Tensor input = torch::stable::contiguous(gate_up), gradient = torch::stable::contiguous(grad);
  const int64_t width = last(gradient);
  Tensor out = torch::stable::empty_like(input);
  const Gating problem = {input.const_data_ptr(), gradient.const_data_ptr(), out.mutable_data_ptr(), width,
                          is_bf16(input)};
  torch::stable::parallel_for(0, gradient.numel() / width, grain_of(width), [&](int64_t begin, int64_t end) {
    kernels().pointwise.silu_mul_backward(problem, begin, end);
  });
  return out;
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("silu_mul", TORCH_BOX(&foveate::silu_mul));
  m.impl("silu_mul_backward", TORCH_BOX(&foveate::silu_mul_backward));
}
