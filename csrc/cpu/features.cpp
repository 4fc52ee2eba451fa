// Asks CPUID once a call. An extension counts only if the operating system saves its registers too (XGETBV); for AMX a
// process must also ask for permission before its first tile instruction (may_use_tiles).

#include "features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdint>

namespace foveate {

#if defined(__x86_64__)
namespace {

struct Leaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf cpuid(uint32_t leaf, uint32_t subleaf) {
  Leaf out;
  __get_cpuid_count(leaf, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx);
  return out;
}

uint64_t saved_registers(const Leaf& basic) {
  constexpr uint32_t kOsXsave = 1u << 27;
  if ((basic.ecx & kOsXsave) == 0) {
    return 0;
  }
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

bool bit(uint32_t word, int index) {
  return ((word >> index) & 1u) != 0;
}

}  // namespace

std::vector<std::pair<std::string, bool>> cpu_features() {
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
  const Leaf basic = cpuid(1, 0), extended = cpuid(7, 0), more = cpuid(7, 1);
  const uint64_t saved = saved_registers(basic);
  const bool ymm = (saved & kYmm) == kYmm, zmm = (saved & kZmm) == kZmm, tiles = (saved & kTiles) == kTiles;
  return {
      {"avx2", ymm && bit(extended.ebx, 5)},
      {"fma", ymm && bit(basic.ecx, 12)},
      {"avx512f", zmm && bit(extended.ebx, 16)},
      {"avx512bw", zmm && bit(extended.ebx, 30)},
      {"avx512dq", zmm && bit(extended.ebx, 17)},
      {"avx512vl", zmm && bit(extended.ebx, 31)},
      {"avx512vnni", zmm && bit(extended.ecx, 11)},
      {"avx512bf16", zmm && bit(more.eax, 5)},
      {"amx_tile", tiles && bit(extended.edx, 24)},
      {"amx_bf16", tiles && bit(extended.edx, 22)},
      {"amx_int8", tiles && bit(extended.edx, 25)},
  };
}
#else
std::vector<std::pair<std::string, bool>> cpu_features() {
  return {};
}
#endif

bool may_use_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr long kAskForRegisters = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kAskForRegisters, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace foveate
