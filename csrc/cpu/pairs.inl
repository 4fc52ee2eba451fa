// What units with AVX512 and pairs of bf16 have in common; to be included before kernels.inl.

constexpr int kLanes = 16, kTileRows = 6, kTileColumns = 4;

#define FOVEATE_FUSED(total, one, other) _mm512_fmadd_ps(one, other, total)
#define FOVEATE_INTS_OF_BYTES(from) _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))
#define FOVEATE_INTS_OF_HALVES(from) _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))
#define FOVEATE_INTS_OF_OCTETS(from) _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))
#define FOVEATE_LOOK_UP(table, index) _mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), load(table))
#define FOVEATE_HALVES_OF_OCTETS(from) _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))
#define FOVEATE_LOOK_UP_HALVES(table, index) \
  _mm512_permutexvar_epi16(reinterpret_cast<__m512i>(index), _mm512_load_si512(table))
#define FOVEATE_ADD_PAIRS(total, one, other)                                                         \
  reinterpret_cast<Vec>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(total), reinterpret_cast<__m512bh>(one), \
                                         reinterpret_cast<__m512bh>(other)))
#define FOVEATE_ROUND_BOTH(low, high) \
  reinterpret_cast<Vec>(_mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low)))
