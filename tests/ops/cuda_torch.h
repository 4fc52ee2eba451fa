// torch's C++ interface as far as csrc/cuda asks for it: tensors that say they are on a GPU, and a program that calls
// an operation with what it reads and writes what it returns.
#include "cuda_threads.h"

#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>

#define STD_TORCH_CHECK(holds, ...) ((holds) ? void() : emulated::refuse(__VA_ARGS__))
#define STABLE_TORCH_ERROR_CODE_CHECK(call) (call)
#define TORCH_BOX(function) function
#define STABLE_TORCH_LIBRARY_IMPL(library, key, m) \
  template <>                                      \
  inline void emulated::operations<__COUNTER__>(emulated::Library & m)

namespace emulated {
struct Library;

template <typename... Parts>
void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  require(false, text.str().c_str());
}
template <int kFile>
void operations(Library&) {}
}  // namespace emulated

namespace torch::headeronly {
enum class ScalarType : int64_t { BFloat16, Float, Int, Long, Half, Double, Bool, Byte, Char };
}

namespace torch::stable {

using headeronly::ScalarType;
using Sizes = std::vector<int64_t>;

struct Tensor {
  unsigned char* data;
  ScalarType type;
  Sizes shape, strides;
  int device = 0;

  bool is_cuda() const { return true; }
  bool is_cpu() const { return false; }
  int get_device() const { return device; }
  ScalarType scalar_type() const { return type; }
  int64_t dim() const { return shape.size(); }
  int64_t size(int64_t dim) const { return shape.at(dim); }
  int64_t stride(int64_t dim) const { return strides.at(dim); }
  const Sizes& sizes() const { return shape; }
  bool is_contiguous() const { return strides == strides_of(shape); }
  int64_t numel() const { return dim() == 0 ? 1 : shape[0] * strides_of(shape)[0]; }
  int64_t item_bytes() const { return type == ScalarType::BFloat16 ? 2 : type == ScalarType::Long ? 8 : 4; }
  size_t num_bytes() const { return numel() * item_bytes(); }
  const void* const_data_ptr() const { return data; }
  void* mutable_data_ptr() { return data; }
  template <typename Number> const Number* const_data_ptr() const { return reinterpret_cast<const Number*>(data); }
  template <typename Number> Number* mutable_data_ptr() { return reinterpret_cast<Number*>(data); }

  static Sizes strides_of(const Sizes& shape) {
    Sizes strides(shape.size(), 1);
    for (size_t at = shape.size(); at > 1; --at) {
      strides[at - 2] = strides[at - 1] * shape[at - 1];
    }
    return strides;
  }
};

inline std::vector<emulated::Memory> memories;

inline Tensor new_empty(const Tensor& like, const Sizes& shape, std::optional<ScalarType> type = {}) {
  Tensor empty = {nullptr, type.value_or(like.type), shape, Tensor::strides_of(shape)};
  memories.push_back({empty.num_bytes()});
  empty.data = memories.back().begin();
  return empty;
}
inline Tensor empty_like(const Tensor& like) { return new_empty(like, like.shape); }
inline void zero_(Tensor& tensor) { std::memset(tensor.data, 0, tensor.num_bytes()); }
inline Tensor new_zeros(const Tensor& like, const Sizes& shape) {
  Tensor zeros = new_empty(like, shape);
  zero_(zeros);
  return zeros;
}
inline Tensor contiguous(const Tensor& tensor) { return tensor; }

namespace accelerator {
struct DeviceGuard {
  explicit DeviceGuard(int) {}
};
}  // namespace accelerator
}  // namespace torch::stable

using AOTITorchError = int;
extern "C" inline AOTITorchError aoti_torch_get_current_cuda_stream(int, void**) { return 0; }

namespace emulated {

using torch::stable::memories;
using torch::stable::Tensor;

inline torch::stable::Sizes numbers;  // of the arguments: themselves, or those that describe a tensor
inline size_t num_read;

inline void read_bytes(void* to, size_t bytes) {
  require(std::fread(to, 1, bytes, stdin) == bytes, "the input ends too early");
}

template <typename Value>
Value next() {
  return std::bit_cast<Value>(numbers.at(num_read++));
}
template <>
inline bool next<bool>() {
  return next<int64_t>() != 0;
}
template <>
inline Tensor next<Tensor>() {
  Tensor tensor = {memories.at(next<int64_t>()).begin(), next<torch::stable::ScalarType>(), {}, {}};
  tensor.device = static_cast<int>(next<int64_t>());
  tensor.data += next<int64_t>() * tensor.item_bytes();
  for (int64_t left = next<int64_t>(); left > 0; --left) {
    tensor.shape.push_back(next<int64_t>());
    tensor.strides.push_back(next<int64_t>());
  }
  return tensor;
}
template <>
inline std::optional<Tensor> next<std::optional<Tensor>>() {
  return next<bool>() ? std::optional(next<Tensor>()) : std::nullopt;
}

inline void write(const Tensor& tensor) {
  torch::stable::Sizes head = {static_cast<int64_t>(tensor.type), tensor.dim()};
  head.insert(head.end(), tensor.shape.begin(), tensor.shape.end());
  head.resize(8);
  std::fwrite(head.data(), 8, head.size(), stdout);
  std::fwrite(tensor.data, 1, tensor.num_bytes(), stdout);
}
template <typename... Tensors>
void write(const std::tuple<Tensors...>& tensors) {
  std::apply([](const auto&... each) { (write(each), ...); }, tensors);
}

struct Library {
  std::string wanted;

  template <typename Result, typename... Arguments>
  void impl(const char* name, Result (*operation)(Arguments...)) {
    if (name == wanted) {
      std::tuple<std::decay_t<Arguments>...> arguments{next<std::decay_t<Arguments>>()...};
      write(std::apply(operation, arguments));
    }
  }
};

// Input: how many numbers and how many memories; the numbers, first the bytes of each memory; the memories.
template <size_t... kFiles>
int run(const char* name, std::index_sequence<kFiles...>) {
  int64_t counts[2];
  read_bytes(counts, sizeof(counts));
  numbers.resize(counts[0]);
  read_bytes(numbers.data(), numbers.size() * 8);
  for (; counts[1] > 0; --counts[1]) {
    memories.push_back({next<size_t>()});
    read_bytes(memories.back().begin(), memories.back().bytes);
  }
  Library library = {name};
  (operations<kFiles>(library), ...);
  for (const Memory& memory : memories) {
    memory.check();
  }
  return 0;
}

}  // namespace emulated
