// Rotary positions: the two halves of a head are turned by each other. A thread takes eight pairs where memory allows.
// Equals: tests/references.py, rotate.

#include "wide.cuh"

#include <torch/csrc/stable/library.h>

namespace foveate::cuda {
namespace {

struct Heads {
  const bf16* data;
  int64_t token_stride, head_stride;
};

__device__ __forceinline__ float2 turned(float first, float second, float c, float s) {
  return {first * c - second * s, second * c + first * s};
}

template <int kPairs>
__global__ void turn_pairs(Heads x, bf16* out, const float* cos, const float* sin, int64_t num_tokens, int num_heads,
                           int half, bool back) {
  const auto [which, pair] = piece_of<kPairs>(thread_number(), half);
  const int64_t token = which / num_heads, head = which % num_heads;
  if (token >= num_tokens) {
    return;
  }
  const bf16* from = x.data + token * x.token_stride + head * x.head_stride + pair;
  bf16* to = out + which * 2 * half + pair;
  cos += token * half + pair;
  sin += token * half + pair;
  const float sign = back ? -1.0f : 1.0f;
  if constexpr (kPairs == 1) {
    const float2 both = turned(__bfloat162float(from[0]), __bfloat162float(from[half]), cos[0], sign * sin[0]);
    to[0] = __float2bfloat16(both.x);
    to[half] = __float2bfloat16(both.y);
  } else {
    Wide first = Wide::of(from), second = Wide::of(from + half);
#pragma unroll
    for (int i = 0; i < kWide; i += 4) {
      const float4 c = *reinterpret_cast<const float4*>(cos + i), s = *reinterpret_cast<const float4*>(sin + i);
      const float cs[4] = {c.x, c.y, c.z, c.w}, ss[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 both = turned(first.values[i + j], second.values[i + j], cs[j], sign * ss[j]);
        first.values[i + j] = both.x;
        second.values[i + j] = both.y;
      }
    }
    first.put(to);
    second.put(to + half);
  }
}

Tensor rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, bool back) {
  STD_TORCH_CHECK(x.is_cuda() && x.scalar_type() == ScalarType::BFloat16 && x.dim() == 3,
                  "x must be bfloat16 [T, H, D] on a GPU, got ", tensor_text(x));
  FOVEATE_CHECK_CUDA_BESIDE(x, cos, Float);
  FOVEATE_CHECK_CUDA_BESIDE(x, sin, Float);
  const Tensor input = x.stride(2) == 1 ? x : torch::stable::contiguous(x);
  const int64_t num_tokens = x.size(0), num_heads = x.size(1), half = x.size(2) / 2;
  STD_TORCH_CHECK(x.size(2) == 2 * half && half > 0 && cos.numel() == num_tokens * half && sin.numel() == cos.numel(),
                  "x must have heads of an even size and cos and sin be [T, D / 2], got shapes ", shape_text(x), ", ",
                  shape_text(cos), " and ", shape_text(sin));
  Tensor out = torch::stable::new_empty(input, {num_tokens, num_heads, 2 * half});
  const OnDevice device(input);
  const Heads heads = {read(input), input.stride(0), input.stride(1)};
  const bool wide = half % kWide == 0 && heads.token_stride % kWide == 0 && heads.head_stride % kWide == 0 &&
                    is_aligned(input) && is_aligned(cos) && is_aligned(sin);
  device.launch(wide ? turn_pairs<kWide> : turn_pairs<1>, blocks_for(out.numel() / 2 / (wide ? kWide : 1)), kThreads, 0,
                heads, write(out), cos.const_data_ptr<float>(), sin.const_data_ptr<float>(), num_tokens,
                static_cast<int>(num_heads), static_cast<int>(half), back);
  return out;
}

}  // namespace
}  // namespace foveate::cuda

STABLE_TORCH_LIBRARY_IMPL(foveate, CUDA, m) {
  m.impl("rotate", TORCH_BOX(&foveate::cuda::rotate));
}
