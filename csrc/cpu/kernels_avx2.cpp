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
