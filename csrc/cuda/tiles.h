// How the work of the CUDA kernels is cut: plain arithmetic without CUDA, so that a test on a CPU runs it over every
// block (tests/ops/cuda_tiles.cpp).
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define FOVEATE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FOVEATE_HOST_DEVICE inline
#endif

namespace foveate::cuda {

// --- tiles of packed sequences: windows of an attention, rows of an expert ---

// Rows [first, end) of sequence `sequence`, which itself is rows [begin, end).
struct Tile {
  int sequence, begin, first, end;
};

// Sequence w, which begins at row `begin`, has slots from here on. Sequences of any length find room for
// ceil(length / rows) tiles before the next one's, so a grid can be sized without reading where they end.
FOVEATE_HOST_DEVICE int first_slot(int begin, int sequence, int rows) {
  return begin / rows + sequence;
}

FOVEATE_HOST_DEVICE int num_slots(int64_t total_rows, int num_sequences, int rows) {
  return static_cast<int>(total_rows / rows) + num_sequences;
}

// The tile in a slot; false where the slot is empty. ends [count + 1]: 0 and where each sequence ends.
FOVEATE_HOST_DEVICE bool find_tile(const int* ends, int count, int rows, int slot, Tile& tile) {
  int low = 0, high = count;  // the last sequence whose first slot is not behind `slot`
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (first_slot(ends[middle], middle, rows) <= slot ? low : high) = middle;
  }
  if (count == 0) {
    return false;
  }
  const int begin = ends[low], end = ends[low + 1];
  const int first = begin + (slot - first_slot(begin, low, rows)) * rows;
  tile = {low, begin, first, end};
  return first < end;
}

// --- tiles of experts one after the other, without gaps: where each begins is written down when choices are ordered ---

// No more tiles than this hold so many rows of so many experts.
FOVEATE_HOST_DEVICE int most_tiles(int64_t total_rows, int num_experts, int rows) {
  const int64_t slots = total_rows / rows + num_experts;
  return static_cast<int>(total_rows < slots ? total_rows : slots);
}

FOVEATE_HOST_DEVICE int tiles_of(int length, int rows) {
  return (length + rows - 1) / rows;
}

// Whether tile `slot` is one of this expert; then that tile. ends, tiles [count + 1]: 0 and where each expert's end.
FOVEATE_HOST_DEVICE bool is_tile_of(const int* ends, const int* tiles, int expert, int rows, int slot, Tile& tile) {
  if (slot < tiles[expert] || slot >= tiles[expert + 1]) {
    return false;
  }
  tile = {expert, ends[expert], ends[expert] + (slot - tiles[expert]) * rows, ends[expert + 1]};
  return true;
}

// --- rows of `length` numbers in pieces of `kWidth` that a thread moves at once, numbered row by row ---

template <typename Index>
struct Piece {
  Index row;
  int at;  // of its first number
};

template <int kWidth, typename Index>
FOVEATE_HOST_DEVICE Piece<Index> piece_of(Index idx, int length) {
  const int pieces = length / kWidth;
  return {idx / pieces, static_cast<int>(idx % pieces) * kWidth};
}

// --- query heads of a new token: those that share a key head, up to 16 a block ---

struct HeadGroup {
  int kv_head, first, count;  // heads [first, first + count) of those of a key head
};

constexpr int kDecodeQueries = 16;

FOVEATE_HOST_DEVICE int groups_of(int heads_of_key) {
  return (heads_of_key + kDecodeQueries - 1) / kDecodeQueries;
}

FOVEATE_HOST_DEVICE HeadGroup head_group(int block, int heads_of_key) {
  const int groups = groups_of(heads_of_key), first = block % groups * kDecodeQueries, left = heads_of_key - first;
  return {block / groups, first, left < kDecodeQueries ? left : kDecodeQueries};
}

// --- keys of one sequence, shared among `parts` blocks in whole tiles ---

struct Span {
  int begin, end;
};

FOVEATE_HOST_DEVICE int tiles_of_part(int length, int parts, int rows) {
  return ((length + rows - 1) / rows + parts - 1) / parts;
}

// How many of the parts have a key: the first ones.
FOVEATE_HOST_DEVICE int parts_with_keys(int length, int parts, int rows) {
  const int each = tiles_of_part(length, parts, rows) * rows;
  return length > 0 ? (length + each - 1) / each : 0;
}

FOVEATE_HOST_DEVICE Span span_of(int length, int parts, int part, int rows) {
  const int each = tiles_of_part(length, parts, rows);
  const int begin = part * each * rows, end = begin + each * rows;
  return {begin < length ? begin : length, end < length ? end : length};
}

// Blocks that fill the multiprocessors twice, where there are tiles enough.
FOVEATE_HOST_DEVICE int num_parts(int multiprocessors, int64_t blocks, int64_t capacity, int rows) {
  const int64_t tiles = (capacity + rows - 1) / rows, wanted = blocks > 0 ? 2 * multiprocessors / blocks : 1;
  const int64_t parts = wanted < tiles ? wanted : tiles;
  return static_cast<int>(parts < 1 ? 1 : parts);
}

// --- shared memory ---

// Rows of `width` bf16 with a gap of 16 bytes: eight rows then lie in different banks for ldmatrix. Width a multiple of 16.
FOVEATE_HOST_DEVICE constexpr int padded(int width) {
  return width + 8;
}

// Rows of 64 bf16 without a gap: the 16-byte piece `piece` of a row changes places with the row's number.
FOVEATE_HOST_DEVICE constexpr int swizzled(int row, int piece) {
  return row * 64 + ((piece ^ (row & 7)) * 8);
}

constexpr int kAttentionRows = 64, kAttentionThreads = 128;

FOVEATE_HOST_DEVICE constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Bytes of `tiles` tiles of queries, keys, values or their gradients, heads of `dim`, and `extra` f32 a row.
FOVEATE_HOST_DEVICE constexpr int attention_bytes(int dim, int tiles, int extra) {
  return kAttentionRows * (tiles * padded(dim) * 2 + extra * 4);
}

constexpr int kDecodeKeys = 64, kDecodeThreads = 128;

// Queries, keys, values where they are not part of the keys, weights, and two numbers of each warp for each query.
FOVEATE_HOST_DEVICE constexpr int decode_bytes(int dim, int value_dim, bool shared) {
  const int rows = kDecodeQueries * (padded(dim) + padded(kDecodeKeys)) +
                   kDecodeKeys * (padded(dim) + (shared ? 0 : padded(value_dim)));
  return rows * 2 + 2 * (kDecodeThreads / 32) * kDecodeQueries * 4;
}

constexpr int kGemmColumns = 128, kGemmDepth = 64, kGemmThreads = 256;

// Rows of a block: as many as an expert has on average, or so.
FOVEATE_HOST_DEVICE int gemm_rows(int64_t num_rows, int num_experts) {
  const int64_t each = num_rows / num_experts;
  return each <= 16 ? 16 : each <= 128 ? 64 : 128;
}

FOVEATE_HOST_DEVICE constexpr int gemm_stages(int rows) {
  return rows > 64 ? 3 : 4;
}

FOVEATE_HOST_DEVICE constexpr int gemm_bytes(int rows) {
  return gemm_stages(rows) * (rows + kGemmColumns) * kGemmDepth * 2;
}

// --- gate and up side by side: eight rows of one, then eight of the other, so that one thread holds both ---

// Which of an expert's rows [0, 2 * inner) stands in row `row` of a block's 128, or -1 where there is none.
FOVEATE_HOST_DEVICE int gate_up_row(int block, int row, int inner) {
  const int group = row / 8, feature = block * (kGemmColumns / 2) + group / 2 * 8 + row % 8;
  return feature < inner ? feature + group % 2 * inner : -1;
}

// The result's column that number `at` of a block's 128 belongs to, the first of eight; `gated`: two groups make one.
FOVEATE_HOST_DEVICE int result_group(int block, int at, bool gated) {
  return (block * kGemmColumns + at) / (gated ? 2 : 1);
}

}  // namespace foveate::cuda
