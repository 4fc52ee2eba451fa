// Rotary positions applied: the pairs (i, i + D / 2) of every head turn by their token's angles, or back by them, which
// is the gradient. A head's angles are read once for all heads.
// Equals: tests/references.py, rotate.

#include "kernels.h"
#include "operands.h"

#include <torch/csrc/stable/library.h>

namespace foveate {
namespace {

Tensor rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, bool back) {
  check_operand(x, "x");
  FOVEATE_CHECK_DIM(x, 3);
  const int64_t num_tokens = x.size(0), num_heads = x.size(1), head_dim = x.size(2);
  STD_TORCH_CHECK(head_dim % 2 == 0, "x must have heads of an even size, got shape ", shape_text(x));
  check_table(cos, num_tokens, head_dim / 2, "cos");
  check_table(sin, num_tokens, head_dim / 2, "sin");
  const Tensor input = with_dense_rows(x);
  const Tensor cosines = torch::stable::contiguous(cos), sines = torch::stable::contiguous(sin);
  Tensor out = torch::stable::new_empty(input, {num_tokens, num_heads, head_dim});
  const Rotation problem = {
      heads_of(input), heads_of(out), cosines.const_data_ptr<float>(), sines.const_data_ptr<float>(),
      num_heads,       head_dim,      back,                            is_bf16(input)};
  torch::stable::parallel_for(0, num_tokens, grain_of(num_heads * head_dim), [&](int64_t begin, int64_t end) {
    kernels().pointwise.rotate(problem, begin, end);
  });
  return out;
}

}  // namespace
}  // namespace foveate

STABLE_TORCH_LIBRARY_IMPL(foveate, CPU, m) {
  m.impl("rotate", TORCH_BOX(&foveate::rotate));
}
