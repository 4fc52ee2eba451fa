// What the driver of packed attention (attention.cpp) and its kernels (attention.inl) agree on.
#pragma once

#include "rows.h"

#include <cstdint>

namespace foveate {

struct AttentionProblem {
  int64_t num_heads, num_kv_heads, head_dim;
  int64_t num_tokens;  // that have queries
  bool causal;
  bool bf16;          // of q, k, v, out and their gradients; else f32
  float scale;        // of the products of queries and keys
  const float* cos;   // [num_tokens, head_dim / 2], or null: queries and keys are not turned
  const float* sin;
  Rows q, k, v, out;
  float* stats;       // [2, num_heads, num_tokens]: highest score in base 2, and 1 / sum of 2^(score - highest)
  Rows grad_out, grad_q, grad_k, grad_v;
};

// A part of the work that nobody else writes to: queries [query_begin, query_end) of one sequence, all query heads that
// share a key head, and in backward keys [key_begin, key_end), which are all for gradients of queries, as queries are all
// for those of keys and values.
struct AttentionPart {
  int64_t start, length;  // of the sequence, in tokens
  int64_t queries;        // the row of q that its first token would have, if all its tokens had one
  int64_t kv_head;
  int64_t query_begin, query_end;
  int64_t key_begin, key_end;
  bool of_queries, of_keys;  // which gradients
};

constexpr int64_t kWidestLanes = 16;   // rows in scratch are padded to this many numbers
constexpr int64_t kQueryRows = 48;     // queries of a block
constexpr int64_t kKeyRows = 128;      // keys of a block
constexpr int64_t kChunkRows = 5 * kQueryRows;  // queries of a part, in forward at least: keys are unpacked once for them

constexpr int64_t padded_dim(int64_t head_dim) {
  return (head_dim + kWidestLanes - 1) / kWidestLanes * kWidestLanes;
}

// Floats of scratch, 64-byte aligned, that one part needs.
constexpr int64_t forward_scratch(int64_t head_dim, int64_t group, int64_t rows) {
  const int64_t dim = padded_dim(head_dim);
  return group * rows * (2 * dim + 2) + 3 * kKeyRows * dim + kQueryRows * kKeyRows;
}

constexpr int64_t backward_scratch(int64_t head_dim, int64_t group, int64_t rows, bool of_queries) {
  const int64_t dim = padded_dim(head_dim);
  const int64_t block = 6 * kKeyRows * dim + 4 * kQueryRows * dim + 3 * kQueryRows * kKeyRows;
  return group * rows * (of_queries ? dim + 1 : 1) + block;
}

struct AttentionKernels {
  void (*forward)(const AttentionProblem&, const AttentionPart&, float* scratch);
  void (*backward)(const AttentionProblem&, const AttentionPart&, float* scratch);
  int64_t chunk_rows;  // queries of a part, of all heads that share a key head
};

}  // namespace foveate
