// The kernels of kernels_amx.cpp with tiles and pairs of bf16 in plain C++: what runs on a processor with AMX is tested on
// one without. For tests alone; it is never chosen.

#include "kernels.h"

#include <cstring>
#include <type_traits>
#include <utility>

namespace foveate {
namespace {

constexpr int kLanes = 16, kTileRows = 6, kTileColumns = 4;

#define FOVEATE_LOW(pairs) reinterpret_cast<Vec>(reinterpret_cast<VecU>(pairs) << 16)
#define FOVEATE_HIGH(pairs) reinterpret_cast<Vec>(reinterpret_cast<VecU>(pairs) & 0xffff0000u)
#define FOVEATE_ADD_PAIRS(total, one, other) \
  (total + FOVEATE_LOW(one) * FOVEATE_LOW(other) + FOVEATE_HIGH(one) * FOVEATE_HIGH(other))
#define FOVEATE_ROUND_BOTH(low, high) both_halves(rounded(low), rounded(high))

template <typename Words>
inline auto both_halves(Words low, Words high) {
  uint16_t halves[2 * kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    halves[lane] = static_cast<uint16_t>(low[lane] >> 16);
    halves[kLanes + lane] = static_cast<uint16_t>(high[lane] >> 16);
  }
  float __attribute__((vector_size(kLanes * 4))) both;
  std::memcpy(&both, halves, sizeof(both));
  return both;
}

thread_local float tiles[8][16][16];

inline void load_tile(int tile, const void* from, int64_t bytes) {
  for (int row = 0; row < 16; ++row) {
    std::memcpy(tiles[tile][row], static_cast<const char*>(from) + row * bytes, 64);
  }
}

inline void store_tile(int tile, void* to, int64_t bytes) {
  for (int row = 0; row < 16; ++row) {
    std::memcpy(static_cast<char*>(to) + row * bytes, tiles[tile][row], 64);
  }
}

inline float number(float word, int half) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, word);
  return __builtin_bit_cast(float, half == 0 ? bits << 16 : bits & 0xffff0000u);
}

inline void add_tile(int sums, int left, int right) {
  for (int row = 0; row < 16; ++row) {
    for (int pair = 0; pair < 16; ++pair) {
      for (int column = 0; column < 16; ++column) {
        for (int half = 0; half < 2; ++half) {
          tiles[sums][row][column] += number(tiles[left][row][pair], half) * number(tiles[right][pair][column], half);
        }
      }
    }
  }
}

struct TileWork {
  TileWork() { std::memset(tiles, 0xff, sizeof(tiles)); }  // not a number
  ~TileWork() { std::memset(tiles, 0xff, sizeof(tiles)); }
};

#define FOVEATE_TILES
#define FOVEATE_TILE_ZERO(tile) std::memset(tiles[tile], 0, sizeof(tiles[tile]))
#define FOVEATE_TILE_LOAD(tile, from, bytes) load_tile(tile, from, bytes)
#define FOVEATE_TILE_STORE(tile, to, bytes) store_tile(tile, to, bytes)
#define FOVEATE_TILE_ADD(sums, left, right) add_tile(sums, left, right)
#define FOVEATE_LOAD_WORDS(from, count) load_words_of(from, count)

inline auto load_words_of(const float* from, int64_t count) {
  float __attribute__((vector_size(kLanes * 4))) words = {};
  std::memcpy(&words, from, count * sizeof(float));
  return words;
}

#include "kernels.inl"

}  // namespace

const Kernels& emulated_amx_kernels() {
  return table;
}

bool emulated_amx_works() {
  return tiles_agree();
}

}  // namespace foveate
