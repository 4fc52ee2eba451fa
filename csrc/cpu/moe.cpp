// The rows that choices of experts take in the order of experts; tokens to these rows and back, each the other's gradient,
// with the dot products that are the gradient of the weights.
//
//   dispatch: rows[place[t, k]] = weights[t, k] * x[t], other rows 0;   combine: x[t] = sum over k of weights * rows
//
// Sums are in f32 in the order of the choices. A row belongs to one choice at most: that is the caller's promise, it is
// not checked; that places lie in range is.
// Equals: tests/references.py, expert_order, dispatch and combine.

#include "kernels.h"
#include "operands.h"
#include "order.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>

namespace foveate {
namespace {

void check_place(const Tensor& place, int64_t num_tokens, int64_t num_rows) {
  FOVEATE_CHECK_CPU(place);
  STD_TORCH_CHECK(place.scalar_type() == ScalarType::Long && place.dim() == 2 && place.is_contiguous(),
                  "place must be a contiguous int64 tensor [tokens, choices], got ", tensor_text(place));
  STD_TORCH_CHECK(num_tokens < 0 || place.size(0) == num_tokens, "place must have a line for each of ", num_tokens,
                  " tokens, got shape ", shape_text(place));
  const int64_t* data = place.const_data_ptr<int64_t>();
  const int64_t count = place.numel();
  const int64_t* bad = std::find_if(data, data + count, [&](int64_t row) { return row < 0 || row >= num_rows; });
  STD_TORCH_CHECK(bad == data + count, "place must name rows from 0 to ", num_rows - 1, ", got ", *bad);
}

void check_rows(const Tensor& x, const char* name) {
  check_operand(x, name);
  STD_TORCH_CHECK(x.dim() == 2 && x.size(1) > 0, name, " must be [rows, width], got shape ", shape_text(x));
}

// The weights as f32 without gaps, or an empty tensor's null.
const float* weights_of(const std::optional<Tensor>& weights, const Tensor& place) {
  if (!weights.has_value()) {
    return nullptr;
  }
  STD_TORCH_CHECK(weights->is_cpu() && weights->scalar_type() == ScalarType::Float && weights->is_contiguous(),
                  "weights must be a contiguous float32 CPU tensor, got ", tensor_text(*weights),
                  "; convert it with .float().contiguous()");
  STD_TORCH_CHECK(same_shape(*weights, place), "weights must have the shape of place ", shape_text(place), ", got ",
                  shape_text(*weights));
  return weights->const_data_ptr<float>();
}

Choices choices_of(const Tensor& tokens, const Tensor& rows, const Tensor& place, const float* weights) {
  return {const_cast<void*>(tokens.const_data_ptr()), const_cast<void*>(rows.const_data_ptr()),
          place.const_data_ptr<int64_t>(),            weights,
          nullptr,                                    tokens.size(1),
          place.size(1),                              is_bf16(tokens)};
}

std::tuple<Tensor, Tensor> order(const Tensor& experts, int64_t num_experts) {
  FOVEATE_CHECK_CPU(experts);
  STD_TORCH_CHECK(experts.scalar_type() == ScalarType::Long && experts.dim() == 2 && experts.is_contiguous(),
                  "experts must be a contiguous int64 tensor [tokens, choices], got ", tensor_text(experts));
  Tensor place = torch::stable::new_empty(experts, {experts.size(0), experts.size(1)});
  Tensor ends = torch::stable::new_empty(experts, {num_experts + 1}, ScalarType::Int);
  const auto begins = place_choices(experts.const_data_ptr<int64_t>(), experts.numel(), num_experts,
                                    place.mutable_data_ptr<int64_t>());
  std::copy(begins.begin(), begins.end(), ends.mutable_data_ptr<int32_t>());
  return {place, ends};
}

Tensor dispatch(const Tensor& x, const Tensor& place, const std::optional<Tensor>& weights, int64_t num_rows) {
  check_rows(x, "x");
  check_place(place, x.size(0), num_rows);
  const float* factors = weights_of(weights, place);
  const Tensor input = torch::stable::contiguous(x);
  Tensor rows = torch::stable::new_empty(input, {num_rows, x.size(1)});
  if (num_rows > place.numel()) {
    std::memset(rows.mutable_data_ptr(), 0, rows.numel() * (is_bf16(x) ? 2 : 4));
  }
  const Choices problem = choices_of(input, rows, place, factors);
  torch::stable::parallel_for(0, x.size(0), grain_of(x.size(1) * place.size(1)), [&](int64_t begin, int64_t end) {
    kernels().pointwise.dispatch(problem, begin, end);
  });
  return rows;
}

Tensor combine(const Tensor& rows, const Tensor& place, const std::optional<Tensor>& weights) {
  check_rows(rows, "rows");
  check_place(place, -1, rows.size(0));
  const float* factors = weights_of(weights, place);
  const Tensor input = torch::stable::contiguous(rows);
  Tensor out = torch::stable::new_empty(input, {place.size(0), rows.size(1)});
  const Choices problem = choices_of(out, input, place, factors);
  torch::stable::parallel_for(0, place.size(0), grain_of(rows.size(1) * place.size(1)),
                              [&](int64_t begin, int64_t end) { kernels().pointwise.combine(problem, begin, end); });
  return out;
}

Tensor dots(const Tensor& x, const Tensor& rows, const Tensor& place) {
  check_rows(x, "x");
  check_rows(rows, "rows");
  FOVEATE_CHECK_SAME_DTYPE(x, rows);
  STD_TORCH_CHECK(x.size(1) == rows.size(1), "x and rows must have one width, got shapes ", shape_text(x), " and ",
                  shape_text(rows));
  check_place(place, x.size(0), rows.size(0));
  const Tensor one = torch::stable::contiguous(x), other = torch::stable::contiguous(rows);
  Tensor out = torch::stable::new_empty(one, {place.size(0), place.size(1)}, ScalarType::Float);
  Choices problem = choices_of(one, other, place, nullptr);
  problem.dots = out.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, x.size(0), grain_of(x.size(1) * place.size(1)), [&](int64_t begin, int64_t end) {
    kernels().pointwise.dots(problem, begin, end);
  });
  return out;
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("moe_order", TORCH_BOX(&foveate::order));
  m.impl("moe_dispatch", TORCH_BOX(&foveate::dispatch));
  m.impl("moe_combine", TORCH_BOX(&foveate::combine));
  m.impl("moe_dots", TORCH_BOX(&foveate::dots));
}
