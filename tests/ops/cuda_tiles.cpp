// Runs the arithmetic of csrc/cuda's tiles.h and fragments.h over every block and lane that a grid would have; says what
// is wrong and exits with 1.

#include "fragments.h"
#include "tiles.h"

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace {

using namespace foveate::cuda;

void check(bool holds, const char* what, long a, long b) {
  if (!holds) {
    std::printf("%s: %ld, %ld\n", what, a, b);
    std::exit(1);
  }
}

// Every row of every sequence lies in one tile, of its own sequence.
void check_tiles(const std::vector<int>& lengths, int rows) {
  std::vector<int> ends = {0};
  for (const int length : lengths) {
    ends.push_back(ends.back() + length);
  }
  const int count = static_cast<int>(lengths.size());
  std::vector<int> seen(ends.back(), 0);
  const int slots = num_slots(ends.back(), count, rows);
  for (int slot = 0; slot < slots; ++slot) {
    Tile tile;
    if (!find_tile(ends.data(), count, rows, slot, tile)) {
      continue;
    }
    check(tile.begin == ends[tile.sequence] && tile.end == ends[tile.sequence + 1], "not a sequence", slot, tile.sequence);
    check(tile.first >= tile.begin && (tile.first - tile.begin) % rows == 0, "not a tile's first row", slot, tile.first);
    for (int row = tile.first; row < tile.first + rows && row < tile.end; ++row) {
      ++seen[row];
    }
  }
  for (size_t row = 0; row < seen.size(); ++row) {
    check(seen[row] == 1, "a row is not in one tile", static_cast<long>(row), seen[row]);
  }
}

// Every row of every expert lies in one tile, and no tile is empty.
void check_tiles_of_experts(const std::vector<int>& lengths, int rows) {
  std::vector<int> ends = {0}, tiles = {0};
  for (const int length : lengths) {
    ends.push_back(ends.back() + length);
    tiles.push_back(tiles.back() + tiles_of(length, rows));
  }
  const int count = static_cast<int>(lengths.size());
  check(tiles.back() <= most_tiles(ends.back(), count, rows), "more tiles than blocks", tiles.back(), ends.back());
  std::vector<int> seen(ends.back(), 0);
  for (int slot = 0; slot < tiles.back(); ++slot) {
    int found = 0;
    for (int expert = 0; expert < count; ++expert) {
      Tile tile;
      if (!is_tile_of(ends.data(), tiles.data(), expert, rows, slot, tile)) {
        continue;
      }
      ++found;
      check(tile.sequence == expert && tile.first >= tile.begin && tile.first < tile.end, "not an expert's", slot, expert);
      for (int row = tile.first; row < tile.first + rows && row < tile.end; ++row) {
        ++seen[row];
      }
    }
    check(found == 1, "a tile is not of one expert", slot, found);
  }
  for (size_t row = 0; row < seen.size(); ++row) {
    check(seen[row] == 1, "an expert's row is not in one tile", static_cast<long>(row), seen[row]);
  }
}

// Spans are whole tiles, follow each other and end with the keys.
void check_spans(int length, int parts, int rows) {
  int at = 0;
  for (int part = 0; part < parts; ++part) {
    const Span span = span_of(length, parts, part, rows);
    check(span.begin == at && span.end >= span.begin, "a span does not follow the one before", length, part);
    check(span.end == length || span.end % rows == 0, "a span ends inside a tile", length, part);
    const bool counted = part < parts_with_keys(length, parts, rows);
    check(counted == (span.begin < span.end), "a part is taken for one with keys, or not", length, part);
    at = span.end;
  }
  check(at == length, "keys are left over", length, parts);
}

// The 16-byte pieces that eight lanes of ldmatrix read lie in different banks, and no two pieces share a place.
void check_banks() {
  for (int width = 16; width <= 576; width += 16) {
    int used = 0;
    for (int row = 0; row < 8; ++row) {
      used |= 1 << (padded(width) * 2 * row / 16 % 8);
    }
    check(used == 255, "padded rows share banks", width, used);
  }
  std::vector<int> seen(128 * 64, 0);
  for (int piece = 0; piece < 8; ++piece) {
    for (int row = 0; row < 128; ++row) {
      ++seen[swizzled(row, piece)];
    }
    for (int first = 0; first < 128; first += 8) {
      int used = 0;
      for (int row = first; row < first + 8; ++row) {
        used |= 1 << (swizzled(row, piece) * 2 / 16 % 8);
      }
      check(used == 255, "swizzled rows share banks", first, piece);
    }
  }
  for (size_t at = 0; at < seen.size(); at += 8) {
    check(seen[at] == 1, "a place is not used once", static_cast<long>(at), seen[at]);
  }
}

// Every number of a row is in one piece; pieces begin at a multiple of their width.
template <int kWidth>
void check_pieces(int length) {
  constexpr int kRows = 5;
  std::vector<int> seen(kRows * length, 0);
  for (int idx = 0; idx < kRows * length / kWidth; ++idx) {
    const auto [row, at] = piece_of<kWidth>(idx, length);
    check(at % kWidth == 0 && at < length, "a piece does not fit a row", length, idx);
    for (int i = 0; i < kWidth; ++i) {
      ++seen[row * length + at + i];
    }
  }
  for (size_t at = 0; at < seen.size(); ++at) {
    check(seen[at] == 1, "a number is not in one piece", length, static_cast<long>(at));
  }
}

// Lanes hold every number of a result once, and fetch every row of eight numbers of an operand once.
void check_lanes() {
  int held[16][8] = {}, fetched[16][2] = {}, fetched_across[16][2] = {};
  for (int lane = 0; lane < 32; ++lane) {
    for (int number = 0; number < 4; ++number) {
      ++held[result_row(lane, number)][result_column(lane, number)];
    }
    check(is_first_of_row(lane) == (result_column(lane, 0) == 0), "another lane is the first of a row", lane, 0);
    ++fetched[lane_row(lane)][lane_column(lane) / 8];
    ++fetched_across[lane_row_across(lane)][lane_column_across(lane) / 8];
  }
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      check(held[row][column] == 1, "a number of a result is not held once", row, column);
    }
    for (int half = 0; half < 2; ++half) {
      check(fetched[row][half] == 1 && fetched_across[row][half] == 1, "half a row is not fetched once", row, half);
    }
  }
}

// Every query head of every key head is in one block.
void check_heads(int key_heads, int heads_of_key) {
  std::vector<int> seen(key_heads * heads_of_key, 0);
  for (int block = 0; block < key_heads * groups_of(heads_of_key); ++block) {
    const auto [kv_head, first, count] = head_group(block, heads_of_key);
    check(count >= 1 && count <= kDecodeQueries, "a block has too few or too many heads", block, count);
    for (int head = first; head < first + count; ++head) {
      ++seen[kv_head * heads_of_key + head];
    }
  }
  for (size_t head = 0; head < seen.size(); ++head) {
    check(seen[head] == 1, "a head is not in one block", heads_of_key, static_cast<long>(head));
  }
}

// Every row of gate and up is read by one block; neighbouring groups of eight are the gate's and the up's same columns.
void check_gate_up(int inner) {
  std::vector<int> seen(2 * inner, 0);
  const int blocks = (inner + kGemmColumns / 2 - 1) / (kGemmColumns / 2);
  for (int block = 0; block < blocks; ++block) {
    for (int row = 0; row < kGemmColumns; ++row) {
      const int from = gate_up_row(block, row, inner);
      if (from < 0) {
        continue;
      }
      ++seen[from];
      const int column = result_group(block, row / 16 * 16, true) + row % 8;
      check(from == column + (row / 8 % 2) * inner, "a row belongs to another column", row, from);
    }
  }
  for (int row = 0; row < 2 * inner; ++row) {
    check(seen[row] == 1, "a row is not read once", inner, row);
  }
}

constexpr int kMostShared = 227 * 1024;  // of a block on Hopper and Blackwell; Ampere's server GPUs have 163 KB
constexpr int kLeastShared = 99 * 1024 - 32;  // of what the build serves, sm_86 and sm_120, less what is not dynamic

void check_memory() {
  for (int dim = 16; dim <= 128; dim += 16) {
    check(attention_bytes(dim, 4, 3) <= kLeastShared, "attention wants too much shared memory", dim, attention_bytes(dim, 4, 3));
    check((dim + 4) * 4 <= 2 * padded(dim) * 2, "gradients do not fit over two tiles", dim, 0);
  }
  for (const int rows : {16, 64, 128}) {
    check(gemm_bytes(rows) <= kLeastShared, "a product wants too much", rows, gemm_bytes(rows));
    check(2 * gemm_bytes(rows) <= kMostShared, "two blocks of a product do not fit", rows, gemm_bytes(rows));
  }
  check(decode_bytes(256, 256, false) <= kLeastShared, "decoding wants too much", 256, decode_bytes(256, 256, false));
  check(decode_bytes(576, 512, true) <= kLeastShared, "latents want too much", 576, decode_bytes(576, 512, true));
  check(2 * decode_bytes(576, 512, true) <= kMostShared, "two blocks of latents do not fit", 576, decode_bytes(576, 512, true));
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (const int rows : {16, 64, 128}) {
    for (const auto& lengths : std::vector<std::vector<int>>{
             {}, {0, 0, 0}, {rows, rows, 1, 0, rows + 1, rows - 1, 5 * rows, 0}, {0, 1, 0, 1, 0, 0, 1, 0}}) {
      check_tiles(lengths, rows);
      check_tiles_of_experts(lengths, rows);
    }
    for (int trial = 0; trial < 300; ++trial) {
      std::vector<int> lengths(random() % 40);
      for (int& length : lengths) {
        length = random() % 4 == 0 ? 0 : static_cast<int>(random() % (3 * rows));
      }
      check_tiles(lengths, rows);
      check_tiles_of_experts(lengths, rows);
    }
  }
  for (int length = 1; length < 900; ++length) {
    for (const int parts : {1, 2, 3, 7, 40}) {
      check_spans(length, parts, kDecodeKeys);
    }
  }
  check(num_parts(132, 1, 64 * 1000, 64) == 264 && num_parts(132, 1, 64, 64) == 1 && num_parts(132, 1000, 6400, 64) == 1,
        "the number of parts", num_parts(132, 1, 64000, 64), num_parts(132, 1000, 6400, 64));
  check_banks();
  check_lanes();
  for (const int length : {8, 72, 80, 128, 576}) {
    check_pieces<4>(length);
    check_pieces<8>(length);
  }
  for (int heads = 1; heads < 70; ++heads) {
    check_heads(3, heads);
  }
  for (const int inner : {8, 40, 64, 128, 200, 1408}) {
    check_gate_up(inner);
  }
  check_memory();
  return 0;
}
