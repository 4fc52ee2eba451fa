// Choices of experts in the order of the experts, those of one expert in their own order.
#pragma once

#include "../checks.h"

#include <cstdint>
#include <numeric>
#include <vector>

namespace foveate {

// place[choice]: its row in that order. Returns where each expert's rows begin, and the end of all.
inline std::vector<int64_t> place_choices(const int64_t* chosen, int64_t count, int64_t num_experts, int64_t* place) {
  std::vector<int64_t> begins(num_experts + 1, 0);
  for (int64_t choice = 0; choice < count; ++choice) {
    STD_TORCH_CHECK(chosen[choice] >= 0 && chosen[choice] < num_experts, "experts must lie in 0 to ", num_experts - 1,
                    ", got ", chosen[choice]);
    ++begins[chosen[choice] + 1];
  }
  std::partial_sum(begins.begin(), begins.end(), begins.begin());
  std::vector<int64_t> next = begins;
  for (int64_t choice = 0; choice < count; ++choice) {
    place[choice] = next[chosen[choice]]++;
  }
  return begins;
}

}  // namespace foveate
