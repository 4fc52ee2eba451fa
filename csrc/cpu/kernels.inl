// All kernels of one instruction set. A unit sets kLanes, kTileRows and kTileColumns and includes this inside its
// anonymous namespace; `table` is what it offers.

#include "lanes.inl"

#include "tiles.inl"

#include "attention.inl"

#include "decode.inl"

#include "pointwise.inl"

#include "matvec.inl"

#include "resize.inl"

constexpr Kernels table = {
    {&attention_forward, &attention_backward, kUnpackedFor},
    {&decode_part, &decode_join},
    {&silu_mul, &silu_mul_backward, &rotate, &dispatch, &combine, &dots, &norm, &norm_backward, &norm_grad_weight},
    {&line_products, &row_numbers, &gate_lines, &widen_line, &finish, &weigh, Widest::kNumbers == 2, pack_lines,
     packed_products},
    {&blend_lines, &blend_rows, kPixelRows},
};
