// Kernels that pass once over memory, for one instruction set; to be included after lanes.inl.
//
// Numbers: computed in f32, rounded once. Sums over a token's choices and over a row have one order, whatever the number
// of threads.
// Bound:   memory, and the exponential of a gate.

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

using Whole = std::integral_constant<int64_t, kLanes>;

// Calls step(d, count) for each vector of a row. That a vector is whole is a constant: with the question inside a loop, and
// a call behind it, nothing stays in registers.
template <typename Step>
FOVEATE_INLINE void along_row(int64_t width, const Step& step) {
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) {
    step(d, Whole());
  }
  if (d < width) {
    step(d, width - d);
  }
}

// The sum over a row of term(d, count), a vector of numbers from d on; four sums at once hide how long an addition takes.
template <typename Term>
FOVEATE_INLINE float sum_of_row(int64_t width, const Term& term) {
  constexpr int kSums = 4;
  Vec parts[kSums] = {};
  int64_t d = 0;
  for (; d + kSums * kLanes <= width; d += kSums * kLanes) {
    for (int i = 0; i < kSums; ++i) {
      parts[i] += term(d + i * kLanes, Whole());
    }
  }
  along_row(width - d, [&](int64_t rest, auto count) { parts[0] += term(d + rest, count); });
  return folded((parts[0] + parts[1]) + (parts[2] + parts[3]));
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
    along_row(width, [=](int64_t d, auto count) {
      const Vec gate = load_some(gates + d, count), up = load_some(gates + width + d, count);
      store_some(out + d, gate * sigmoid(gate) * up, count);
    });
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
    along_row(width, [=](int64_t d, auto count) {
      const Vec gate = load_some(gates + d, count), up = load_some(gates + width + d, count);
      const Vec grad = load_some(grads + d, count), open = sigmoid(gate);
      store_some(out + d, grad * up * open * (1.0f + gate * (1.0f - open)), count);
      store_some(out + width + d, grad * gate * open, count);
    });
  }
}

template <typename T>
static void turn_heads(const Rotation& problem, int64_t begin, int64_t end) {
  const int64_t half = problem.head_dim / 2;
  const float direction = problem.back ? -1.0f : 1.0f;
  for (int64_t token = begin; token < end; ++token) {
    along_row(half, [&](int64_t d, auto count) {
      const Vec cos = load_some(problem.cos + token * half + d, count);
      const Vec sin = load_some(problem.sin + token * half + d, count) * direction;
      for (int64_t head = 0; head < problem.num_heads; ++head) {
        const T* from = row_of<T>(problem.x, token, head) + d;
        T* to = row_of<T>(problem.out, token, head) + d;
        const Vec first = load_some(from, count), second = load_some(from + half, count);
        store_some(to, first * cos - second * sin, count);
        store_some(to + half, second * cos + first * sin, count);
      }
    });
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
      const float weight = problem.weights[choice];
      along_row(width, [=](int64_t d, auto count) {
        store_some(to + d, load_some(from + d, count) * weight, count);
      });
    }
  }
}

template <typename T>
static void combine_rows(const Choices& problem, int64_t begin, int64_t end) {
  const int64_t width = problem.width;
  for (int64_t token = begin; token < end; ++token) {
    T* to = static_cast<T*>(problem.tokens) + token * width;
    along_row(width, [&](int64_t d, auto count) {
      Vec total = {};
      for (int64_t choice = token * problem.top_k; choice < (token + 1) * problem.top_k; ++choice) {
        const Vec row = load_some(static_cast<const T*>(problem.rows) + problem.place[choice] * width + d, count);
        total += problem.weights == nullptr ? row : row * problem.weights[choice];
      }
      store_some(to + d, total, count);
    });
  }
}

template <typename T>
static void dot_rows(const Choices& problem, int64_t begin, int64_t end) {
  const int64_t width = problem.width;
  for (int64_t token = begin; token < end; ++token) {
    const T* one = static_cast<const T*>(problem.tokens) + token * width;
    for (int64_t choice = token * problem.top_k; choice < (token + 1) * problem.top_k; ++choice) {
      const T* other = static_cast<const T*>(problem.rows) + problem.place[choice] * width;
      problem.dots[choice] = sum_of_row(width, [=](int64_t d, auto count) {
        return load_some(one + d, count) * load_some(other + d, count);
      });
    }
  }
}

template <typename T>
static void norm_rows(const Norm& problem, int64_t begin, int64_t end) {
  const int64_t width = problem.width;
  const float* weights = problem.weight;
  for (int64_t row = begin; row < end; ++row) {
    const T* from = static_cast<const T*>(problem.x) + row * width;
    T* out = static_cast<T*>(problem.normed) + row * width;
    if (problem.residual != nullptr) {
      const T* added = static_cast<const T*>(problem.residual) + row * width;
      T* total = static_cast<T*>(problem.total) + row * width;
      along_row(width, [=](int64_t d, auto count) {
        store_some(total + d, load_some(from + d, count) + load_some(added + d, count), count);
      });
      from = total;  // rounded
    }
    const float squares = sum_of_row(width, [=](int64_t d, auto count) {
      const Vec value = load_some(from + d, count);
      return value * value;
    });
    const float inverse = 1.0f / __builtin_sqrtf(squares / static_cast<float>(width) + problem.eps);
    along_row(width, [=](int64_t d, auto count) {
      store_some(out + d, load_some(from + d, count) * inverse * load_some(weights + d, count), count);
    });
    problem.inverse_rms[row] = inverse;
  }
}

// With g = grad_normed * weight and r = inverse_rms:
//   grad_x = r * (g - x * r^2 * mean(g * x)) + grad_total,   grad_weight = sum over rows of grad_normed * x * r
template <typename T>
static void norm_row_backward(const NormGradients& problem, int64_t row, float* weight_sums) {
  const int64_t width = problem.width;
  const T* grads = static_cast<const T*>(problem.grad_normed) + row * width;
  const T* from = static_cast<const T*>(problem.x) + row * width;
  const T* passed = problem.grad_total == nullptr ? nullptr : static_cast<const T*>(problem.grad_total) + row * width;
  const float* weights = problem.weight;
  T* out = static_cast<T*>(problem.grad_x) + row * width;
  const float inverse = problem.inverse_rms[row];
  const float dot = sum_of_row(width, [=](int64_t d, auto count) {
    return load_some(grads + d, count) * load_some(weights + d, count) * load_some(from + d, count);
  });
  const float pull = inverse * inverse * dot / static_cast<float>(width);
  along_row(width, [=](int64_t d, auto count) {
    const Vec grad = load_some(grads + d, count), value = load_some(from + d, count);
    const Vec own = inverse * (grad * load_some(weights + d, count) - value * pull);
    store_some(weight_sums + d, load_some(weight_sums + d, count) + grad * value * inverse, count);
    store_some(out + d, passed == nullptr ? own : own + load_some(passed + d, count), count);
  });
}

template <typename T>
static void norm_blocks_backward(const NormGradients& problem, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block) {
    float* weight_sums = problem.partial + block * problem.width;
    std::memset(weight_sums, 0, problem.width * sizeof(float));
    const int64_t last = smaller(problem.num_rows, (block + 1) * problem.block_rows);
    for (int64_t row = block * problem.block_rows; row < last; ++row) {
      norm_row_backward<T>(problem, row, weight_sums);
    }
  }
}

template <typename T>
static void sum_blocks(const NormGradients& problem, int64_t begin, int64_t end) {
  along_row(end - begin, [=, &problem](int64_t d, auto count) {
    Vec total = {};
    for (int64_t block = 0; block < problem.num_blocks; ++block) {
      total += load_some(problem.partial + block * problem.width + begin + d, count);
    }
    store_some(static_cast<T*>(problem.grad_weight) + begin + d, total, count);
  });
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

static void norm(const Norm& problem, int64_t begin, int64_t end) {
  problem.bf16 ? norm_rows<uint16_t>(problem, begin, end) : norm_rows<float>(problem, begin, end);
}

static void norm_backward(const NormGradients& problem, int64_t begin, int64_t end) {
  problem.bf16 ? norm_blocks_backward<uint16_t>(problem, begin, end) : norm_blocks_backward<float>(problem, begin, end);
}

static void norm_grad_weight(const NormGradients& problem, int64_t begin, int64_t end) {
  problem.weight_bf16 ? sum_blocks<uint16_t>(problem, begin, end) : sum_blocks<float>(problem, begin, end);
}
