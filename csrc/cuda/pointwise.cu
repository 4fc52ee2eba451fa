// Operations that read each number once: the gate of a SwiGLU, rotary positions, and tokens to the rows of their experts
// and back. A thread takes eight numbers, sums are in f32.
// Equals: tests/references.py, silu_mul, rotate, dispatch and combine.

#include "pointwise.h"

#include "launch.h"

#include <torch/csrc/stable/library.h>

#include <cassert>
#include <vector>

namespace foveate::cuda {
namespace {

constexpr int kThreads = 256, kWide = 8;

struct Wide {
  float values[kWide];

  __device__ static Wide of(const bf16* from) {
    const uint4 raw = *reinterpret_cast<const uint4*>(from);
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
    Wide wide;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&words[i]));
      wide.values[2 * i] = pair.x;
      wide.values[2 * i + 1] = pair.y;
    }
    return wide;
  }
  __device__ void put(bf16* to) const {
    *reinterpret_cast<uint4*>(to) = {pack(values[0], values[1]), pack(values[2], values[3]), pack(values[4], values[5]),
                                     pack(values[6], values[7])};
  }
  __device__ void add(const Wide& other, float factor) {
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      values[i] += other.values[i] * factor;
    }
  }
};

__device__ __forceinline__ int64_t thread_number() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

dim3 blocks_for(int64_t threads) {
  return dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads));
}

void check_width(const Tensor& x, int64_t width) {
  STD_TORCH_CHECK(width > 0 && width % kWide == 0, "rows on a GPU must hold a multiple of ", kWide,
                  " numbers, got shape ", shape_text(x));
}

// --- silu(gate) * up ---

__global__ void gate(const bf16* gate_up, bf16* out, int64_t num_rows, int width) {
  const int pieces = width / kWide;
  const int64_t row = thread_number() / pieces, at = thread_number() % pieces * kWide;
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
  const int pieces = width / kWide;
  const int64_t row = thread_number() / pieces, at = thread_number() % pieces * kWide;
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
  FOVEATE_CHECK_CUDA(input, BFloat16);
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
  FOVEATE_CHECK_CUDA(input, BFloat16);
  FOVEATE_CHECK_CUDA(gradient, BFloat16);
  const int64_t width = last(gradient);
  STD_TORCH_CHECK(gradient.numel() * 2 == input.numel() && width * 2 == last(input),
                  "grad must have the shape of silu_mul's result for gate_up ", shape_text(input), ", got ",
                  shape_text(gradient));
  check_width(input, width);
  Tensor out = torch::stable::empty_like(input);
  const OnDevice device(input);
  device.launch(gate_backward, blocks_for(gradient.numel() / kWide), kThreads, 0, read(gradient), read(input),
                write(out), gradient.numel() / width, static_cast<int>(width));
  return out;
}

// --- rotary positions ---

struct Heads {
  const bf16* data;
  int64_t token_stride, head_stride;
};

__global__ void turn_pairs(Heads x, bf16* out, const float* cos, const float* sin, int64_t num_tokens, int num_heads,
                           int half, bool back) {
  const int64_t which = thread_number() / half;
  const int pair = static_cast<int>(thread_number() % half);
  const int64_t token = which / num_heads, head = which % num_heads;
  if (token >= num_tokens) {
    return;
  }
  const bf16* from = x.data + token * x.token_stride + head * x.head_stride + pair;
  const float c = cos[token * half + pair], s = back ? -sin[token * half + pair] : sin[token * half + pair];
  const float first = __bfloat162float(from[0]), second = __bfloat162float(from[half]);
  out[which * 2 * half + pair] = __float2bfloat16(first * c - second * s);
  out[which * 2 * half + half + pair] = __float2bfloat16(second * c + first * s);
}

Tensor rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, bool back) {
  FOVEATE_CHECK_DIM(x, 3);
  FOVEATE_CHECK_CUDA(cos, Float);
  FOVEATE_CHECK_CUDA(sin, Float);
  const Tensor input = x.stride(2) == 1 ? x : torch::stable::contiguous(x);
  const int64_t num_tokens = x.size(0), num_heads = x.size(1), half = x.size(2) / 2;
  STD_TORCH_CHECK(input.is_cuda() && input.scalar_type() == ScalarType::BFloat16 && x.size(2) == 2 * half && half > 0 &&
                      cos.numel() == num_tokens * half && sin.numel() == cos.numel(),
                  "x must be bfloat16 [T, H, D] on a GPU and cos and sin [T, D / 2], got shapes ", shape_text(x), ", ",
                  shape_text(cos), " and ", shape_text(sin));
  Tensor out = torch::stable::new_empty(input, {num_tokens, num_heads, 2 * half});
  const OnDevice device(input);
  device.launch(turn_pairs, blocks_for(out.numel() / 2), kThreads, 0,
                Heads{read(input), input.stride(0), input.stride(1)}, write(out), cos.const_data_ptr<float>(),
                sin.const_data_ptr<float>(), num_tokens, static_cast<int>(num_heads), static_cast<int>(half), back);
  return out;
}

// --- tokens to rows and back ---

__device__ __forceinline__ int64_t row_of(const int64_t* place, int64_t choice, int64_t num_rows) {
  assert(place[choice] >= 0 && place[choice] < num_rows);
  return place[choice];
}

__global__ void scatter(const bf16* x, const int64_t* place, const float* weights, bf16* rows, int64_t num_rows,
                        int64_t num_choices, int top_k, int width) {
  const int pieces = width / kWide;
  const int64_t choice = thread_number() / pieces, at = thread_number() % pieces * kWide;
  if (choice >= num_choices) {
    return;
  }
  const bf16* from = x + choice / top_k * width + at;
  bf16* to = rows + row_of(place, choice, num_rows) * width + at;
  if (weights == nullptr) {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    return;
  }
  Wide sum = {};
  sum.add(Wide::of(from), weights[choice]);
  sum.put(to);
}

__global__ void gather(const bf16* rows, int64_t num_rows, const int64_t* place, const float* weights, bf16* out,
                       int64_t num_tokens, int top_k, int width) {
  const int pieces = width / kWide;
  const int64_t token = thread_number() / pieces, at = thread_number() % pieces * kWide;
  if (token >= num_tokens) {
    return;
  }
  Wide sum = {};
  for (int choice = 0; choice < top_k; ++choice) {
    const int64_t which = token * top_k + choice;
    sum.add(Wide::of(rows + row_of(place, which, num_rows) * width + at), weights == nullptr ? 1.0f : weights[which]);
  }
  sum.put(out + token * width + at);
}

// A warp for each choice.
__global__ void multiply_choices(const bf16* x, const bf16* rows, int64_t num_rows, const int64_t* place, float* out,
                                 int64_t num_choices, int top_k, int width) {
  const int64_t choice = thread_number() / 32;
  if (choice >= num_choices) {
    return;
  }
  const bf16 *one = x + choice / top_k * width, *other = rows + row_of(place, choice, num_rows) * width;
  float sum = 0;
  for (int at = threadIdx.x % 32 * kWide; at < width; at += 32 * kWide) {
    const Wide left = Wide::of(one + at), right = Wide::of(other + at);
#pragma unroll
    for (int i = 0; i < kWide; ++i) {
      sum += left.values[i] * right.values[i];
    }
  }
  for (int step = 16; step > 0; step /= 2) {
    sum += __shfl_xor_sync(~0u, sum, step);
  }
  if (threadIdx.x % 32 == 0) {
    out[choice] = sum;
  }
}

// Checks rows [N, D] and place [T, K], and the weights where there are any, which it returns.
const float* check_rows(const Tensor& rows, const Tensor& place, const std::optional<Tensor>& weights) {
  FOVEATE_CHECK_CUDA(rows, BFloat16);
  FOVEATE_CHECK_CUDA(place, Long);
  FOVEATE_CHECK_DIM(rows, 2);
  FOVEATE_CHECK_DIM(place, 2);
  check_width(rows, rows.size(1));
  if (!weights.has_value()) {
    return nullptr;
  }
  const Tensor& factors = *weights;
  FOVEATE_CHECK_CUDA(factors, Float);
  FOVEATE_CHECK_SAME_SHAPE(factors, place);
  return factors.const_data_ptr<float>();
}

Tensor dispatch(const Tensor& x, const Tensor& place, const std::optional<Tensor>& weights, int64_t num_rows) {
  const Tensor input = torch::stable::contiguous(x);
  const float* factors = check_rows(input, place, weights);
  STD_TORCH_CHECK(place.size(0) == x.size(0), "place must have a line for each token of x ", shape_text(x), ", got ",
                  shape_text(place));
  const int64_t width = x.size(1);
  const OnDevice device(input);
  Tensor rows = num_rows > place.numel() ? torch::stable::new_zeros(input, {num_rows, width})
                                         : torch::stable::new_empty(input, {num_rows, width});
  device.launch(scatter, blocks_for(place.numel() * (width / kWide)), kThreads, 0, read(input),
                place.const_data_ptr<int64_t>(), factors, write(rows), num_rows, place.numel(),
                static_cast<int>(place.size(1)), static_cast<int>(width));
  return rows;
}

Tensor dots(const Tensor& x, const Tensor& rows, const Tensor& place) {
  const Tensor one = torch::stable::contiguous(x), other = torch::stable::contiguous(rows);
  check_rows(one, place, std::nullopt);
  check_rows(other, place, std::nullopt);
  STD_TORCH_CHECK(one.size(1) == other.size(1) && place.size(0) == one.size(0),
                  "x and rows must have one width and place a line for each token, got shapes ", shape_text(one), ", ",
                  shape_text(other), " and ", shape_text(place));
  const OnDevice device(one);
  Tensor out = torch::stable::new_empty(one, {place.size(0), place.size(1)}, ScalarType::Float);
  device.launch(multiply_choices, blocks_for(place.numel() * 32), kThreads, 0, read(one), read(other),
                other.size(0), place.const_data_ptr<int64_t>(), out.mutable_data_ptr<float>(), place.numel(),
                static_cast<int>(place.size(1)), static_cast<int>(one.size(1)));
  return out;
}

}  // namespace

Tensor combine(const Tensor& rows, const Tensor& place, const std::optional<Tensor>& weights) {
  const Tensor input = torch::stable::contiguous(rows);
  const float* factors = check_rows(input, place, weights);
  const int64_t width = input.size(1);
  const OnDevice device(input);
  Tensor out = torch::stable::new_empty(input, {place.size(0), width});
  device.launch(gather, blocks_for(place.size(0) * (width / kWide)), kThreads, 0, read(input),
                input.size(0), place.const_data_ptr<int64_t>(), factors, write(out), place.size(0),
                static_cast<int>(place.size(1)), static_cast<int>(width));
  return out;
}

}  // namespace foveate::cuda

STABLE_TORCH_LIBRARY_IMPL(foveate, CUDA, m) {
  m.impl("silu_mul", TORCH_BOX(&foveate::cuda::silu_mul));
  m.impl("silu_mul_backward", TORCH_BOX(&foveate::cuda::silu_mul_backward));
  m.impl("rotate", TORCH_BOX(&foveate::cuda::rotate));
  m.impl("moe_dispatch", TORCH_BOX(&foveate::cuda::dispatch));
  m.impl("moe_combine", TORCH_BOX(&foveate::cuda::combine));
  m.impl("moe_dots", TORCH_BOX(&foveate::cuda::dots));
}
