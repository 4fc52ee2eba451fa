// What the operations that pass once over memory (silu_mul.cpp, rotate.cpp, moe.cpp, rms_norm.cpp) and their kernels agree
// on. Each kernel does the rows, tokens, blocks or columns [begin, end).
#pragma once

#include "rows.h"

#include <cstdint>

namespace foveate {

struct Gating {
  const void* gate_up;  // [rows, 2 * width]: gate, then up
  const void* grad;     // [rows, width], backward
  void* out;            // [rows, width]; backward [rows, 2 * width]
  int64_t width;
  bool bf16;
};

struct Rotation {
  Rows x, out;
  const float *cos, *sin;  // [tokens, head_dim / 2]
  int64_t num_heads, head_dim;
  bool back;  // by the negative angles
  bool bf16;
};

// Rows of experts: row place[t * top_k + k] belongs to the k-th choice of token t.
struct Choices {
  void* tokens;          // [tokens, width]
  void* rows;            // [rows, width]
  const int64_t* place;
  const float* weights;  // [tokens, top_k], or null: each is 1
  float* dots;           // [tokens, top_k]
  int64_t width, top_k;
  bool bf16;
};

struct Norm {
  const void *x, *residual;  // [rows, width]; residual and total are null together
  const float* weight;       // [width]
  void *total, *normed;      // [rows, width]
  float* inverse_rms;        // [rows]
  int64_t width;
  float eps;
  bool bf16;
};

struct NormGradients {
  const void *grad_normed, *grad_total, *x;  // [rows, width]; grad_total may be null
  const float *weight, *inverse_rms;         // [width], [rows]
  void* grad_x;
  float* partial;     // [blocks, width]: what each block of rows adds to grad_weight
  void* grad_weight;  // [width]
  int64_t num_rows, num_blocks, block_rows, width;
  bool bf16, weight_bf16;
};

struct PointwiseKernels {
  void (*silu_mul)(const Gating&, int64_t begin, int64_t end);
  void (*silu_mul_backward)(const Gating&, int64_t begin, int64_t end);
  void (*rotate)(const Rotation&, int64_t begin, int64_t end);
  void (*dispatch)(const Choices&, int64_t begin, int64_t end);
  void (*combine)(const Choices&, int64_t begin, int64_t end);
  void (*dots)(const Choices&, int64_t begin, int64_t end);
  void (*norm)(const Norm&, int64_t begin, int64_t end);
  void (*norm_backward)(const NormGradients&, int64_t begin, int64_t end);     // blocks of rows
  void (*norm_grad_weight)(const NormGradients&, int64_t begin, int64_t end);  // columns, after all blocks
};

}  // namespace foveate
