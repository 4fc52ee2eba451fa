// A mixture of experts: choices in the order of experts, both products of every expert in one launch each, the gate in
// the first one's registers, and the weighted sum of each token's rows in f32 in the order of its choices.
// Equals: tests/references.py, experts and expert_order.

#include "grouped_gemm.cuh"
#include "moe.h"
#include "routing.cuh"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

namespace foveate::cuda {
namespace {

struct Order {
  Tensor place, source, ends, tiles;
};

Order order_of(const OnDevice& device, const Tensor& experts, int64_t num_experts) {
  FOVEATE_CHECK_CUDA(experts, Long);
  FOVEATE_CHECK_DIM(experts, 2);
  STD_TORCH_CHECK(num_experts > 0 && num_experts <= kMostExperts, "num_experts must lie in 1 to ", kMostExperts,
                  ", got ", num_experts);
  const int64_t num_choices = experts.numel();
  Order order = {torch::stable::empty_like(experts),
                 torch::stable::new_empty(experts, {num_choices}, ScalarType::Int),
                 torch::stable::new_empty(experts, {num_experts + 1}, ScalarType::Int),
                 torch::stable::new_empty(experts, {num_experts + 1}, ScalarType::Int)};
  if (num_choices == 0) {
    torch::stable::zero_(order.ends);
    return order;
  }
  Routing routing = {};
  routing.experts = experts.const_data_ptr<int64_t>();
  routing.num_choices = num_choices;
  routing.num_experts = static_cast<int>(num_experts);
  routing.top_k = static_cast<int>(experts.size(1));
  routing.per_chunk = chunk_of(num_choices);
  routing.num_chunks = static_cast<int>((num_choices + routing.per_chunk - 1) / routing.per_chunk);
  Tensor counts = torch::stable::new_empty(experts, {routing.num_chunks, num_experts}, ScalarType::Int);
  routing.counts = counts.mutable_data_ptr<int>();
  routing.place = order.place.mutable_data_ptr<int64_t>();
  routing.source = order.source.mutable_data_ptr<int>();
  routing.ends = order.ends.mutable_data_ptr<int>();
  routing.tiles = order.tiles.mutable_data_ptr<int>();
  routing.tile_rows = gemm_rows(num_choices, routing.num_experts);
  order_choices(device, routing);
  return order;
}

std::tuple<Tensor, Tensor> moe_order(const Tensor& experts, int64_t num_experts) {
  const OnDevice device(experts);
  Order order = order_of(device, experts, num_experts);
  return {order.place, order.ends};
}

Tensor moe_experts(const Tensor& given, const Tensor& experts, const Tensor& weights, const Tensor& gate_up,
                   const Tensor& down, const std::optional<Tensor>& gate_up_scales,
                   const std::optional<Tensor>& down_scales) {
  STD_TORCH_CHECK(!gate_up_scales.has_value() && !down_scales.has_value(),
                  "int8 experts are for the CPU; on a GPU pass bfloat16 weights without scales");
  const Tensor x = torch::stable::contiguous(given);
  FOVEATE_CHECK_CUDA(x, BFloat16);
  FOVEATE_CHECK_CUDA_BESIDE(x, experts, Long);
  FOVEATE_CHECK_CUDA_BESIDE(x, weights, Float);
  FOVEATE_CHECK_CUDA_BESIDE(x, gate_up, BFloat16);
  FOVEATE_CHECK_CUDA_BESIDE(x, down, BFloat16);
  FOVEATE_CHECK_SAME_SHAPE(weights, experts);
  STD_TORCH_CHECK(x.dim() == 2 && gate_up.dim() == 3 && down.dim() == 3 && experts.dim() == 2 &&
                      experts.size(0) == x.size(0) && gate_up.size(2) == x.size(1) && down.size(1) == x.size(1) &&
                      gate_up.size(0) == down.size(0) && gate_up.size(1) == 2 * down.size(2),
                  "gate_up [E, 2 * I, D], down [E, D, I] and experts [T, K] must fit x ", shape_text(x), ", got ",
                  shape_text(gate_up), ", ", shape_text(down), " and ", shape_text(experts));
  STD_TORCH_CHECK(x.size(1) % 8 == 0 && down.size(2) % 8 == 0, "D and I must be multiples of 8 on a GPU, got ",
                  x.size(1), " and ", down.size(2));
  const OnDevice device(x);
  const int num_experts = static_cast<int>(down.size(0)), width = static_cast<int>(x.size(1));
  const int inner = static_cast<int>(down.size(2));
  const int64_t num_rows = experts.numel();
  if (num_rows == 0) {
    return torch::stable::new_zeros(x, {x.size(0), x.size(1)});
  }
  const Order order = order_of(device, experts, num_experts);
  Tensor hidden = torch::stable::new_empty(x, {num_rows, inner});
  Tensor results = torch::stable::new_empty(x, {num_rows, width});
  const int *ends = order.ends.const_data_ptr<int>(), *tiles = order.tiles.const_data_ptr<int>();
  multiply<true>(device, {read(x), order.source.const_data_ptr<int>(), read(gate_up), ends, tiles, write(hidden),
                          num_experts, inner, width}, num_rows);
  multiply<false>(device, {read(hidden), nullptr, read(down), ends, tiles, write(results), num_experts, width,
                           inner}, num_rows);
  return combine(results, order.place, weights);
}

}  // namespace
}  // namespace foveate::cuda

STABLE_TORCH_LIBRARY_IMPL(foveate, CUDA, m) {
  m.impl("moe_order", TORCH_BOX(&foveate::cuda::moe_order));
  m.impl("moe_experts", TORCH_BOX(&foveate::cuda::moe_experts));
}
