// Softmax attention inside windows over a packed projection, for heads of up to 128 numbers.
//
// Windows of more than one tile go over tiles of keys with a running maximum (FlashAttention, Dao et al.,
// arXiv 2205.14135 and 2307.08691).
// Equals: tests/references.py, window_attention.

#include "windows.cuh"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace foveate::cuda::windows {
namespace {

constexpr int kBlocks = 4;  // blocks of a multiprocessor, for which registers are kept
constexpr float kNothing = -INFINITY;

// The larger or the sum over the four lanes that share rows.
__device__ float most_of_quad(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ float sum_of_quad(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

template <int kHead>
__global__ void __launch_bounds__(kThreads, kBlocks) attend(Problem problem) {
  using Sizes = Place<kHead>;
  Tile tile;
  check_ends(problem);
  if (!find_tile(problem.ends, problem.num_windows, kRows, blockIdx.x, tile)) {
    return;
  }
  bf16 *q = reinterpret_cast<bf16*>(shared_memory), *k = q + Sizes::kTileNumbers, *v = k + Sizes::kTileNumbers;
  const Place<kHead> place = place_of<kHead>(problem, tile);
  bf16* own = q + place.warp * kWarpRows * Sizes::kStride;
  const float scale = problem.scale * kLog2E;
  float sums[Sizes::kDim / 8][4] = {}, highest[2] = {kNothing, kNothing}, total[2] = {};
  load_turned<kHead>(q, place.q(tile.first), place, tile.first, min(kRows, tile.end - tile.first));
  for (int start = tile.begin; start < tile.end; start += kRows) {
    const int keys = min(kRows, tile.end - start);
    __syncthreads();
    load_rows<kHead>(v, place.v(start), place.stride(), keys);
    commit_copies();
    load_turned<kHead>(k, place.k(start), place, start, keys);
    __syncthreads();
    float scores[kRows / 8][4] = {};
    multiply_rows<Sizes::kDim, kRows / 8, Sizes::kStride>(scores, own, k, place.lane);
    float most[2] = {kNothing, kNothing};
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = n * 8 + result_column(place.lane, i) < keys ? scores[n][i] : kNothing;
        most[i / 2] = fmaxf(most[i / 2], scores[n][i]);
      }
    }
    float shrink[2];
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const float now = fmaxf(highest[part], most_of_quad(most[part]));
      shrink[part] = exp2f((highest[part] - now) * scale);
      highest[part] = now;
      total[part] *= shrink[part];
    }
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = exp2f((scores[n][i] - highest[i / 2]) * scale);
        total[i / 2] += scores[n][i];
      }
    }
#pragma unroll
    for (int n = 0; n < Sizes::kDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[n][i] *= shrink[i / 2];
      }
    }
    wait_for_copies<0>();
    __syncthreads();
#pragma unroll
    for (int piece = 0; piece < kRows / 16; ++piece) {
      uint32_t left[4];
      as_operand(left, scores, piece);
      multiply_columns<Sizes::kDim / 8, Sizes::kStride>(sums, left, v + piece * 16 * Sizes::kStride, place.lane);
    }
  }
  const int first = tile.first + place.warp * kWarpRows, rows = tile.end - first;
  float inverse[2];
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    inverse[part] = 1.0f / sum_of_quad(total[part]);
    const int row = result_row(place.lane, 2 * part);
    if (is_first_of_row(place.lane) && row < rows) {
      problem.stats[place.stats_at(first + row)] = highest[part];
      problem.stats[place.stats_at(first + row) + problem.num_heads * problem.num_tokens] = inverse[part];
    }
  }
  store_rows<kHead>(problem.out + place.out_at(first), place.out_stride(), sums, inverse, own, rows, place.lane);
}

std::tuple<Tensor, Tensor> window_attention(const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                                            const Tensor& ends, int64_t num_heads) {
  Problem problem = problem_of(qkv, cos, sin, ends, num_heads);
  const OnDevice device(qkv);
  const int64_t width = qkv.size(1) / 3;
  Tensor out = torch::stable::new_empty(qkv, {problem.num_tokens, width});
  Tensor stats = torch::stable::new_empty(qkv, {2, num_heads, problem.num_tokens}, ScalarType::Float);
  problem.out = write(out);
  problem.stats = stats.mutable_data_ptr<float>();
  with_head(width / num_heads, [&](auto head) {
    device.launch(attend<head.value>, grid_of(problem), kThreads, attention_bytes(Place<head.value>::kDim, 3, 0),
                  problem);
  });
  return {out, stats};
}

}  // namespace
}  // namespace foveate::cuda::windows

STABLE_TORCH_LIBRARY_IMPL(foveate, CUDA, m) {
  m.impl("window_attention", TORCH_BOX(&foveate::cuda::windows::window_attention));
}
