// Where the heads of tokens lie in memory. Plain data, as all that crosses into the units of an instruction set.
#pragma once

#include <cstdint>

namespace foveate {

// Numbers of token t and head h begin at data + t * token_stride + h * head_stride, in numbers.
struct Rows {
  void* data;
  int64_t token_stride;
  int64_t head_stride;
};

}  // namespace foveate
