// The gate of a SwiGLU, silu(gate) * up, and its gradient.
// Equals: tests/references.py, silu_mul.

#include "wide.cuh"

#include <torch/csrc/stable/library.h>

#include <vector>

namespace foveate::cuda {
namespace {

__global__ void gate(const bf16* gate_up, bf16* out, int64_t num_rows, int width) {
  const auto [row, at] = piece_of<kWide>(thread_number(), width);
  if (row >= num_rows) {
    return;
  }
  const Wide gates = Wide::of(gate_up + row * 2 * width + at), ups = Wide::of(gate_up + row * 2 * width + width + at);
  Wide results;
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    results.values[i] = gates.values[i] / (1.0f + __expf(-gates.values[i])) * ups.values[i];
  }
  results.put(out + row * width + at);
}

__global__ void gate_backward(const bf16* grad, const bf16* gate_up, bf16* out, int64_t num_rows, int width) {
  const auto [row, at] = piece_of<kWide>(thread_number(), width);
  if (row >= num_rows) {
    return;
  }
  const Wide gates = Wide::of(gate_up + row * 2 * width + at), ups = Wide::of(gate_up + row * 2 * width + width + at);
  const Wide grads = Wide::of(grad + row * width + at);
  Wide of_gates, of_ups;
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    const float share = 1.0f / (1.0f + __expf(-gates.values[i])), silu = gates.values[i] * share;
    of_ups.values[i] = grads.values[i] * silu;
    of_gates.values[i] = grads.values[i] * ups.values[i] * (share + silu * (1.0f - share));
  }
  of_gates.put(out + row * 2 * width + at);
  of_ups.put(out + row * 2 * width + width + at);
}

int64_t last(const Tensor& x) {
  return x.dim() > 0 ? x.size(x.dim() - 1) : 0;
}

Tensor silu_mul(const Tensor& gate_up) {
  const Tensor input = torch::stable::contiguous(gate_up);
  check_on_gpu(input, "gate_up", ScalarType::BFloat16);
  const int64_t width = last(input) / 2;
  STD_TORCH_CHECK(last(input) == 2 * width, "gate_up must end in an even size, got shape ", shape_text(input));
  check_width(input, width);
  std::vector<int64_t> shape(input.sizes().begin(), input.sizes().end());
  shape.back() = width;
  Tensor out = torch::stable::new_empty(input, shape);
  const OnDevice device(input);
  device.launch(gate, blocks_for(out.numel() / kWide), kThreads, 0, read(input), write(out), out.numel() / width,
                static_cast<int>(width));
  return out;
}

Tensor silu_mul_backward(const Tensor& grad, const Tensor& gate_up) {
  const Tensor input = torch::stable::contiguous(gate_up), gradient = torch::stable::contiguous(grad);
  check_on_gpu(input, "gate_up", ScalarType::BFloat16);
  check_on_gpu(gradient, "grad", ScalarType::BFloat16);
  check_beside(gradient, "grad", input, "gate_up");
  const int64_t width = last(gradient);
  STD_TORCH_CHECK(is_half_as_wide(gradient, input),
                  "grad must have the shape of silu_mul's result for gate_up ", shape_text(input), ", got ",
                  shape_text(gradient));
  check_width(input, width);
  Tensor out = torch::stable::empty_like(input);
  const OnDevice device(input);
  device.launch(gate_backward, blocks_for(gradient.numel() / kWide), kThreads, 0, read(gradient), read(input),
                write(out), gradient.numel() / width, static_cast<int>(width));
  return out;
}

}  // namespace
}  // namespace foveate::cuda

STABLE_TORCH_LIBRARY_IMPL(foveate, CUDA, m) {
  m.impl("silu_mul", TORCH_BOX(&foveate::cuda::silu_mul));
  m.impl("silu_mul_backward", TORCH_BOX(&foveate::cuda::silu_mul_backward));
}
