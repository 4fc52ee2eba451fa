// Kernels for processors with tiles of AMX: products of bf16 in them, everything else as with AVX512 and pairs of bf16.

#include "kernels.h"

#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // what the header leaves undefined on purpose
#include <immintrin.h>
#pragma GCC diagnostic pop

#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,prefer-vector-width=512")

namespace foveate {
namespace {

#include "pairs.inl"

// The header's instructions of GCC 12 do not tell the compiler which memory they read, which then may write it later or
// not at all: those that touch memory are written here.
struct alignas(64) TileShapes {
  uint8_t palette, first_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

// All eight tiles have 16 rows of 64 bytes while this lives, and afterwards the shapes that they had: a library that
// shares the thread may rely on them.
class TileWork {
 public:
  TileWork() {
    static constexpr TileShapes kWhole = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    asm volatile("sttilecfg %0" : "=m"(before_) : : "memory");
    asm volatile("ldtilecfg %0" : : "m"(kWhole) : "memory");
  }
  ~TileWork() {
    if (before_.palette == 0) {
      asm volatile("tilerelease" : : : "memory");
    } else {
      asm volatile("ldtilecfg %0" : : "m"(before_) : "memory");
    }
  }
  TileWork(const TileWork&) = delete;
  TileWork& operator=(const TileWork&) = delete;

 private:
  TileShapes before_;
};

#define FOVEATE_TILES
#define FOVEATE_TILE_ZERO(tile) _tile_zero(tile)
#define FOVEATE_TILE_LOAD(tile, from, bytes) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"(static_cast<int64_t>(bytes)) : "memory")
#define FOVEATE_TILE_STORE(tile, to, bytes) \
  asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"(static_cast<int64_t>(bytes)) : "memory")
#define FOVEATE_TILE_ADD(sums, left, right) _tile_dpbf16ps(sums, left, right)
#define FOVEATE_LOAD_WORDS(from, count) \
  reinterpret_cast<Vec>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << (count)) - 1), from))

#include "kernels.inl"

}  // namespace

const Kernels& amx_kernels() {
  return table;
}

bool amx_works() {
  return tiles_agree();
}

}  // namespace foveate

#pragma GCC pop_options
#else
namespace foveate {

const Kernels& amx_kernels() {
  return generic_kernels();
}

bool amx_works() {
  return false;
}

}  // namespace foveate
#endif
