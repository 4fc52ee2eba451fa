// Kernels for processors with AVX2.

#include "kernels.h"

#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma")

namespace foveate {
namespace {

constexpr int kLanes = 8, kTileRows = 6, kTileColumns = 2;

#define FOVEATE_FUSED(total, one, other) _mm256_fmadd_ps(one, other, total)
#define FOVEATE_INTS_OF_BYTES(from) _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))
#define FOVEATE_INTS_OF_HALVES(from) _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))
#define FOVEATE_INTS_OF_OCTETS(from) _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))
#define FOVEATE_LEVELS_OF_CODES(codes, numbers) levels_of_codes(codes, numbers)

// 64 codes of 4 bits, the lower halves of 32 bytes first, to what they stand for in 127ths.
inline __attribute__((always_inline)) void levels_of_codes(const uint8_t* codes, int8_t* numbers) {
  const __m256i levels = _mm256_broadcastsi128_si256(_mm_setr_epi8(FOVEATE_NORMAL_FLOAT4));
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)), lower = _mm256_set1_epi8(15);
  __m256i* to = reinterpret_cast<__m256i*>(numbers);
  to[0] = _mm256_shuffle_epi8(levels, _mm256_and_si256(both, lower));
  to[1] = _mm256_shuffle_epi8(levels, _mm256_and_si256(_mm256_srli_epi16(both, 4), lower));
}

#include "kernels.inl"

}  // namespace

const Kernels& avx2_kernels() {
  return table;
}

}  // namespace foveate

#pragma GCC pop_options
#else
namespace foveate {

const Kernels& avx2_kernels() {
  return generic_kernels();
}

}  // namespace foveate
#endif
