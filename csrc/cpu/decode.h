// What the driver of attention over a cache (decode.cpp) and its kernels (decode.inl) agree on.
#pragma once

#include "attention.h"

namespace foveate {

struct DecodeProblem {
  int64_t num_heads, num_kv_heads, head_dim, value_dim;
  float scale;
  bool bf16;
  Rows q, out;             // a token of each sequence
  Rows k, v;               // of the first slot
  int64_t k_slot, v_slot;  // numbers from one slot to the next
};

// Keys [key_begin, key_end) of one sequence and key head, for all query heads that share it.
struct DecodePart {
  int64_t sequence, slot, kv_head;
  int64_t key_begin, key_end;
  float* result;  // [group, padded_dim(value_dim)] weighted values, then per query head the highest score and the sum
};

constexpr int64_t kDecodeKeys = 64;    // keys of a block
constexpr int64_t kDecodeChunk = 512;  // keys of a part: fixed, so that any number of threads gives the same bits

constexpr int64_t decode_result(int64_t value_dim, int64_t group) {
  return group * padded_dim(value_dim) + 2 * padded_dim(group);
}

constexpr int64_t decode_scratch(int64_t head_dim, int64_t value_dim, int64_t group) {
  return (head_dim + kDecodeKeys + 1) * padded_dim(group) + (kDecodeKeys + 1) * padded_dim(head_dim) +
         kDecodeKeys * padded_dim(value_dim);
}

struct DecodeKernels {
  void (*part)(const DecodeProblem&, const DecodePart&, float* scratch);
  void (*join)(const DecodeProblem&, const DecodePart* parts, int64_t num_parts);  // of one sequence and key head
};

}  // namespace foveate
