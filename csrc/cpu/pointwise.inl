// Kernels that pass once over memory, for one instruction set; to be included after lanes.inl.
//
// Numbers: computed in f32, rounded once. Sums over a token's choices and over a row have one order, whatever the number
// of threads.
// Bound:   memory.

// Up to kLanes numbers, zero behind the first `count`.
template <typename T>
FOVEATE_INLINE Vec load_some(const T* from, int64_t count) {
  if (count >= kLanes) {
    return load(from);
  }
  T some[kLanes] = {};
  std::memcpy(some, from, count * sizeof(T));
  return load(some);
}

template <typename T>
FOVEATE_INLINE void store_some(T* to, Vec value, int64_t count) {
  if (count >= kLanes) {
    return store(to, value);
  }
  T some[kLanes];
  store(some, value);
  std::memcpy(to, some, count * sizeof(T));
}

// 0 below -87, so that x * sigmoid(x) vanishes for every large negative x; NaN stays NaN.
FOVEATE_INLINE Vec sigmoid(Vec x) {
  constexpr float kMost = 126.0f;
  const Vec power = x * -1.44269504f;
  const Vec open = 1.0f / (1.0f + exp2_of(power > kMost ? Vec{} + kMost : power));
  return power > kMost ? Vec{} : open;
}

template <typename T>
static void gate_rows(const Gating& problem, int64_t begin, int64_t end) {
  const int64_t width = problem.width;
  for (int64_t row = begin; row < end; ++row) {
    const T* gates = static_cast<const T*>(problem.gate_up) + row * 2 * width;
    T* out = static_cast<T*>(problem.out) + row * width;
    for (int64_t d = 0; d < width; d += kLanes) {
      const Vec gate = load_some(gates + d, width - d), up = load_some(gates + width + d, width - d);
      store_some(out + d, gate * sigmoid(gate) * up, width - d);
    }
  }
}

// silu(g) = g s with s = sigmoid(g), so silu'(g) = s (1 + g (1 - s)).
template <typename T>
static void gate_rows_backward(const Gating& problem, int64_t begin, int64_t end) {
  const int64_t width = problem.width;
  for (int64_t row = begin; row < end; ++row) {
    const T* gates = static_cast<const T*>(problem.gate_up) + row * 2 * width;
    const T* grads = static_cast<const T*>(problem.grad) + row * width;
    T* out = static_cast<T*>(problem.out) + row * 2 * width;
    for (int64_t d = 0; d < width; d += kLanes) {
      const Vec gate = load_some(gates + d, width - d), up = load_some(gates + width + d, width - d);
      const Vec grad = load_some(grads + d, width - d), open = sigmoid(gate);
      store_some(out + d, grad * up * open * (1.0f + gate * (1.0f - open)), width - d);
      store_some(out + width + d, grad * gate * open, width - d);
    }
  }
}

template <typename T>
static void turn_heads(const Rotation& problem, int64_t begin, int64_t end) {
  const int64_t half = problem.head_dim / 2;
  const float direction = problem.back ? -1.0f : 1.0f;
  for (int64_t token = begin; token < end; ++token) {
    for (int64_t d = 0; d < half; d += kLanes) {
      const Vec cos = load_some(problem.cos + token * half + d, half - d);
      const Vec sin = load_some(problem.sin + token * half + d, half - d) * direction;
      for (int64_t head = 0; head < problem.num_heads; ++head) {
        const T* from = row_of<T>(problem.x, token, head) + d;
        T* to = row_of<T>(problem.out, token, head) + d;
        const Vec first = load_some(from, half - d), second = load_some(from + half, half - d);
        store_some(to, first * cos - second * sin, half - d);
        store_some(to + half, second * cos + first * sin, half - d);
      }
    }
  }
}

template <typename T>
static void dispatch_tokens(const Choices& problem, int64_t begin, int64_t end) {
  const int64_t width = problem.width;
  for (int64_t token = begin; token < end; ++token) {
    const T* from = static_cast<const T*>(problem.tokens) + token * width;
    for (int64_t choice = token * problem.top_k; choice < (token + 1) * problem.top_k; ++choice) {
      T* to = static_cast<T*>(problem.rows) + problem.place[choice] * width;
      if (problem.weights == nullptr) {
        std::memcpy(to, from, width * sizeof(T));
        continue;
      }
      for (int64_t d = 0; d < width; d += kLanes) {
        store_some(to + d, load_some(from + d, width - d) * problem.weights[choice], width - d);
      }
    }
  }
}

template <typename T>
static void combine_rows(const Choices& problem, int64_t begin, int64_t end) {
  const int64_t width = problem.width;
  for (int64_t token = begin; token < end; ++token) {
    T* to = static_cast<T*>(problem.tokens) + token * width;
    for (int64_t d = 0; d < width; d += kLanes) {
      Vec total = {};
      for (int64_t choice = token * problem.top_k; choice < (token + 1) * problem.top_k; ++choice) {
        const Vec row = load_some(static_cast<const T*>(problem.rows) + problem.place[choice] * width + d, width - d);
        total += problem.weights == nullptr ? row : row * problem.weights[choice];
      }
      store_some(to + d, total, width - d);
    }
  }
}

template <typename T>
static void dot_rows(const Choices& problem, int64_t begin, int64_t end) {
  const int64_t width = problem.width;
  for (int64_t token = begin; token < end; ++token) {
    const T* one = static_cast<const T*>(problem.tokens) + token * width;
    for (int64_t choice = token * problem.top_k; choice < (token + 1) * problem.top_k; ++choice) {
      const T* other = static_cast<const T*>(problem.rows) + problem.place[choice] * width;
      Vec total = {};
      for (int64_t d = 0; d < width; d += kLanes) {
        total += load_some(one + d, width - d) * load_some(other + d, width - d);
      }
      problem.dots[choice] = sum(total);
    }
  }
}

static void silu_mul(const Gating& problem, int64_t begin, int64_t end) {
  problem.bf16 ? gate_rows<uint16_t>(problem, begin, end) : gate_rows<float>(problem, begin, end);
}

static void silu_mul_backward(const Gating& problem, int64_t begin, int64_t end) {
  problem.bf16 ? gate_rows_backward<uint16_t>(problem, begin, end) : gate_rows_backward<float>(problem, begin, end);
}

static void rotate(const Rotation& problem, int64_t begin, int64_t end) {
  problem.bf16 ? turn_heads<uint16_t>(problem, begin, end) : turn_heads<float>(problem, begin, end);
}

static void dispatch(const Choices& problem, int64_t begin, int64_t end) {
  problem.bf16 ? dispatch_tokens<uint16_t>(problem, begin, end) : dispatch_tokens<float>(problem, begin, end);
}

static void combine(const Choices& problem, int64_t begin, int64_t end) {
  problem.bf16 ? combine_rows<uint16_t>(problem, begin, end) : combine_rows<float>(problem, begin, end);
}

static void dots(const Choices& problem, int64_t begin, int64_t end) {
  problem.bf16 ? dot_rows<uint16_t>(problem, begin, end) : dot_rows<float>(problem, begin, end);
}
