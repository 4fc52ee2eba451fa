// The schema of every operation of torch.ops.foveate, and nothing else. A backend registers its kernels in its own
// file (csrc/cpu/<op>.cpp); fake kernels, autograd and the typed face are in src/foveate/ops/.
//
// Only torch's stable C interface is used (TORCH_TARGET_VERSION 2.10), so one build serves every torch from 2.10 on.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(foveate, m) {
  // x [..., D], weight [D] -> normed [..., D], inverse_rms [...] in the accumulation type.
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor normed, Tensor inverse_rms)");

  // The same on total = x + residual, which is returned too: it is the residual stream of the next block.
  m.def(
      "add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps)"
      " -> (Tensor normed, Tensor total, Tensor inverse_rms)");

  // x is what was normalised (total, where there was a residual). grad_total, if given, is added to grad_x.
  m.def(
      "rms_norm_backward(Tensor grad_normed, Tensor? grad_total, Tensor x, Tensor weight, Tensor inverse_rms)"
      " -> (Tensor grad_x, Tensor grad_weight)");

  // Attention inside windows over a packed projection, queries and keys turned by their angles on the way.
  // qkv [T, 3 * H * D], cos and sin [T, D / 2] f32, ends [W + 1] int32: 0 and where each window ends.
  // -> out [T, H * D], stats [2, H, T] f32 for the backward: each row's highest score, and one by its sum.
  m.def(
      "window_attention(Tensor qkv, Tensor cos, Tensor sin, Tensor ends, int num_heads) -> (Tensor out, Tensor stats)");
  m.def(
      "window_attention_backward(Tensor grad_out, Tensor qkv, Tensor cos, Tensor sin, Tensor ends, int num_heads,"
      " Tensor out, Tensor stats) -> Tensor grad_qkv");

  // The same over q [T, H, D], k and v [C, G, D], G a divisor of H; query_ends [W + 1] int32: 0 and where in q the queries
  // of each sequence end, which has some for all its tokens or for the last of them; causal: a token sees itself and those
  // before it. -> out [T, H, D], stats [2, H, T].
  m.def(
      "packed_attention(Tensor q, Tensor k, Tensor v, Tensor ends, Tensor query_ends, bool causal)"
      " -> (Tensor out, Tensor stats)");
  m.def(
      "packed_attention_backward(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor ends, Tensor query_ends,"
      " bool causal, Tensor out, Tensor stats) -> (Tensor grad_q, Tensor grad_k, Tensor grad_v)");

  // One new token of each sequence over a cache: q [B, H, D], k [S, C, G, D], v [S, C, G, E], slots and lengths [B] int64.
  // Sequence b sees the first lengths[b] places of slot slots[b]. -> [B, H, E]; without a gradient.
  m.def("decode_attention(Tensor q, Tensor k, Tensor v, Tensor slots, Tensor lengths, float scale) -> Tensor");

  // x [N, D] of few tokens times weight [O, D], in the dtype of x, or int8 whose rows count times scales [O] f32, or
  // codes of NF4, uint8 [O, D / 2] with scales [O, D / 64]; plus bias [O] -> [N, O] in the dtype of x, or f32 where wide;
  // without a gradient.
  m.def("linear(Tensor x, Tensor weight, Tensor? bias, Tensor? scales, bool wide=False) -> Tensor");

  // Codes of NF4 and their scales as above, of any matrices, as the numbers that they stand for, bf16 or f32 [..., O, D].
  m.def("nf4_numbers(Tensor codes, Tensor scales, bool bf16) -> Tensor");

  // pixels [F, H, W, 3] of bytes, one frame or whole depths -> patches [N, 3 * depth * patch^2] in blocks of merge x merge,
  // each byte through table [3, 256] f32.
  m.def("patchify(Tensor pixels, Tensor table, int patch, int merge, int depth) -> Tensor");

  // What the box of left, top, right and bottom holds of pixels [H, W, 3 or 4] of bytes, a fourth one left out, bicubic as
  // Pillow does it: rows, then columns, or the other way -> [height, width, 3].
  m.def("resize(Tensor pixels, int height, int width, float[] box, bool columns_first) -> Tensor");

  // silu(gate) * up, gate_up [..., 2 * I] holds gate, then up -> [..., I].
  m.def("silu_mul(Tensor gate_up) -> Tensor");
  m.def("silu_mul_backward(Tensor grad, Tensor gate_up) -> Tensor");

  // x [T, H, D] with its pairs (i, i + D / 2) turned by angles, cos and sin [T, D / 2] f32, or turned back.
  m.def("rotate(Tensor x, Tensor cos, Tensor sin, bool back) -> Tensor");

  // Logits [T, E] f32, bias [E] f32 that is added to scores for the choice alone -> weights [T, K] and scores [T, E] f32,
  // experts [T, K] int64; the way back of the gradients of both.
  m.def(
      "moe_route(Tensor logits, Tensor? bias, int top_k, bool sigmoid, bool normed, float scale, int groups,"
      " int top_groups) -> (Tensor weights, Tensor scores, Tensor experts)");
  m.def(
      "moe_route_backward(Tensor grad_weights, Tensor? grad_scores, Tensor experts, Tensor scores, bool sigmoid,"
      " bool normed, float scale) -> Tensor grad_logits");

  // Choices [T, K] int64 in the order of experts, of one expert in the order of tokens -> place [T, K] int64, the row of
  // each choice, and ends [num_experts + 1] int32, 0 and where each expert's rows end.
  m.def("moe_order(Tensor experts, int num_experts) -> (Tensor place, Tensor ends)");

  // x [T, D] to rows [num_rows, D] of experts, place [T, K] int64, and back; weights [T, K] f32, or each is 1.
  m.def("moe_dispatch(Tensor x, Tensor place, Tensor? weights, int num_rows) -> Tensor");
  m.def("moe_combine(Tensor rows, Tensor place, Tensor? weights) -> Tensor");
  // The products [T, K], f32, of each token with its rows: the gradient of the weights.
  m.def("moe_dots(Tensor x, Tensor rows, Tensor place) -> Tensor");

  // The whole of it for few tokens, without a gradient: x [T, D], experts [T, K] int64, weights [T, K] f32, gate_up
  // [E, 2 * I, D] and down [E, D, I] in the dtype of x, or int8 whose rows count times scales [E, 2 * I] and [E, D] f32, or
  // codes of NF4 as above.
  m.def(
      "moe_experts(Tensor x, Tensor experts, Tensor weights, Tensor gate_up, Tensor down, Tensor? gate_up_scales,"
      " Tensor? down_scales) -> Tensor");
}
