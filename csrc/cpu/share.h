// Parts of different size among torch's threads, which take them from a counter, each with scratch of its own: one by one,
// or where there are many some that follow each other, so that what one fetches ahead is there for the next.
#pragma once

#include "../checks.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace foveate {

struct Free {
  void operator()(float* data) const { std::free(data); }
};

inline std::unique_ptr<float, Free> aligned_floats(int64_t count) {
  const size_t bytes = static_cast<size_t>(count * 4 + 63) / 64 * 64;
  float* data = static_cast<float*>(std::aligned_alloc(64, std::max<size_t>(64, bytes)));
  STD_TORCH_CHECK(data != nullptr, "no memory for ", bytes, " bytes of scratch");
  return std::unique_ptr<float, Free>(data);
}

// Calls work(part, scratch) for every part, on at most `num_threads` threads.
template <typename Part, typename Work>
void share(const std::vector<Part>& parts, int64_t num_threads, int64_t scratch_floats, const Work& work) {
  constexpr size_t kMostTaken = 16, kTurns = 8;  // at once, and how often every thread comes at least
  std::atomic<size_t> next(0);
  const int64_t used = std::min<int64_t>(num_threads, parts.size());
  const size_t taken = std::clamp<size_t>(parts.size() / (kTurns * std::max<int64_t>(1, used)), 1, kMostTaken);
  torch::stable::parallel_for(0, used, 1, [&](int64_t, int64_t) {
    const auto scratch = aligned_floats(scratch_floats);
    for (size_t first = next.fetch_add(taken); first < parts.size(); first = next.fetch_add(taken)) {
      for (size_t part = first; part < std::min(first + taken, parts.size()); ++part) {
        work(parts[part], scratch.get());
      }
    }
  });
}

}  // namespace foveate
