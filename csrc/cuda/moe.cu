// Tokens to the rows of their experts and back.
// Equals: tests/references.py, dispatch and combine.

#include "moe.h"

#include "wide.cuh"

#include <torch/csrc/stable/library.h>

#include <cassert>

namespace foveate::cuda {
namespace {

__device__ __forceinline__ int64_t row_of(const int64_t* place, int64_t choice, int64_t num_rows) {
  assert(place[choice] >= 0 && place[choice] < num_rows);
  return place[choice];
}

__global__ void scatter(const bf16* x, const int64_t* place, const float* weights, bf16* rows, int64_t num_rows,
                        int64_t num_choices, int top_k, int width) {
  const auto [choice, at] = piece_of<kWide>(thread_number(), width);
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
  const auto [token, at] = piece_of<kWide>(thread_number(), width);
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

// Checks rows [N, D] of a name and place [T, K], and the weights where there are any, which it returns.
const float* check_rows(const Tensor& rows, const char* name, const Tensor& place,
                        const std::optional<Tensor>& weights) {
  check_on_gpu(rows, name, ScalarType::BFloat16);
  STD_TORCH_CHECK(rows.dim() == 2, name, " must be [rows, width], got shape ", shape_text(rows));
  check_width(rows, rows.size(1));
  FOVEATE_CHECK_CUDA(place, Long);
  FOVEATE_CHECK_DIM(place, 2);
  check_beside(place, "place", rows, name);
  if (!weights.has_value()) {
    return nullptr;
  }
  check_on_gpu(*weights, "weights", ScalarType::Float);
  check_beside(*weights, "weights", rows, name);
  check_same_shape(*weights, "weights", place, "place");
  return weights->const_data_ptr<float>();
}

Tensor dispatch(const Tensor& x, const Tensor& place, const std::optional<Tensor>& weights, int64_t num_rows) {
  const Tensor input = torch::stable::contiguous(x);
  const float* factors = check_rows(input, "x", place, weights);
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
  check_rows(one, "x", place, std::nullopt);
  check_rows(other, "rows", place, std::nullopt);
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
  const float* factors = check_rows(input, "rows", place, weights);
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
  m.impl("moe_dispatch", TORCH_BOX(&foveate::cuda::dispatch));
  m.impl("moe_combine", TORCH_BOX(&foveate::cuda::combine));
  m.impl("moe_dots", TORCH_BOX(&foveate::cuda::dots));
}
