// Kernels of products of a matrix with few lines; to be included after pointwise.inl.
//
// Layout:  weights as they are stored, rows of the matrices; four rows at once, each against up to four lines that stay
//          in registers. The next four rows are fetched ahead: a row is about a page, behind whose end the processor
//          does not look by itself.
// Numbers: f32; one order of additions for each instruction set.
// Bound:   reading the weights once.

constexpr int kWeightRows = 4, kInputLines = 4;
constexpr int kIntoSecondLevel = 2;  // of caches; into the first, a sixth of the rate was lost on a Zen 4

template <int kStep, int... kAt>
FOVEATE_INLINE Vec fold(Vec value, std::integer_sequence<int, kAt...>) {
  return value + __builtin_shufflevector(value, value, (kAt ^ kStep)...);
}

// The sum of all lanes, by halves.
template <int kStep = kLanes / 2>
FOVEATE_INLINE float folded(Vec value) {
  value = fold<kStep>(value, std::make_integer_sequence<int, kLanes>());
  if constexpr (kStep > 1) {
    return folded<kStep / 2>(value);
  } else {
    return value[0];
  }
}

template <bool kWhole, typename W, int kRows, int kInputs>
FOVEATE_INLINE void dot_step(const W* rows, int64_t depth, const float* const* lines, int64_t at,
                             Vec (&total)[kRows][kInputs]) {
  Vec input[kInputs];
  for (int n = 0; n < kInputs; ++n) {
    input[n] = kWhole ? load(lines[n] + at) : load_some(lines[n] + at, depth - at);
  }
  for (int row = 0; row < kRows; ++row) {
    const W* from = rows + row * depth + at;
    __builtin_prefetch(from + kRows * depth, 0, kIntoSecondLevel);
    const Vec weight = kWhole ? load(from) : load_some(from, depth - at);
    for (int n = 0; n < kInputs; ++n) {
      total[row][n] += weight * input[n];
    }
  }
}

template <typename W, int kRows, int kInputs>
static void dot_tile(const W* rows, int64_t depth, const float* const* lines, float* out, int64_t out_row) {
  Vec total[kRows][kInputs] = {};
  const int64_t whole = depth / kLanes * kLanes;
  for (int64_t at = 0; at < whole; at += kLanes) {
    dot_step<true>(rows, depth, lines, at, total);
  }
  if (whole < depth) {  // a question inside the loop cost half the rate
    dot_step<false>(rows, depth, lines, whole, total);
  }
  for (int row = 0; row < kRows; ++row) {
    for (int n = 0; n < kInputs; ++n) {
      out[n * out_row + row] = folded(total[row][n]);
    }
  }
}

template <typename W, int kRows, int kInputs>
static void dot_lines(const W* rows, int64_t depth, const Lines& lines, float* out, int64_t out_row) {
  int64_t n = 0;
  for (; n + kInputs <= lines.count; n += kInputs) {
    const float* some[kInputs];
    for (int i = 0; i < kInputs; ++i) {
      some[i] = lines.data + lines.which[n + i] * depth;
    }
    dot_tile<W, kRows, kInputs>(rows, depth, some, out + n * out_row, out_row);
  }
  if constexpr (kInputs > 1) {
    if (n < lines.count) {
      dot_lines<W, kRows, kInputs / 2>(rows, depth, {lines.data, lines.which + n, lines.count - n}, out + n * out_row,
                                       out_row);
    }
  }
}

template <typename W>
static void dot_rows(const WeightRows& weights, int64_t begin, int64_t end, const Lines& lines, float* out,
                     int64_t out_row) {
  const W* rows = static_cast<const W*>(weights.data);
  int64_t row = begin;
  for (; row + kWeightRows <= end; row += kWeightRows) {
    dot_lines<W, kWeightRows, kInputLines>(rows + row * weights.depth, weights.depth, lines, out + row - begin, out_row);
  }
  for (; row < end; ++row) {
    dot_lines<W, 1, kInputLines>(rows + row * weights.depth, weights.depth, lines, out + row - begin, out_row);
  }
}

static void row_products(const WeightRows& weights, int64_t begin, int64_t end, const Lines& lines, float* out,
                         int64_t out_row) {
  switch (weights.kind) {
    case WeightKind::kFloat:
      return dot_rows<float>(weights, begin, end, lines, out, out_row);
    case WeightKind::kBfloat16:
      return dot_rows<uint16_t>(weights, begin, end, lines, out, out_row);
    case WeightKind::kInt8:
      dot_rows<int8_t>(weights, begin, end, lines, out, out_row);
  }
  for (int64_t n = 0; n < lines.count; ++n) {
    for (int64_t row = begin; row < end; ++row) {
      out[n * out_row + row - begin] *= weights.scales[row];
    }
  }
}

static void gate_lines(const float* gate, const float* up, int64_t count, float* out) {
  for (int64_t at = 0; at < count; at += kLanes) {
    const Vec value = load_some(gate + at, count - at);
    store_some(out + at, value * sigmoid(value) * load_some(up + at, count - at), count - at);
  }
}

static void widen_line(const uint16_t* from, int64_t count, float* to) {
  for (int64_t at = 0; at < count; at += kLanes) {
    store_some(to + at, load_some(from + at, count - at), count - at);
  }
}

template <typename T>
static void finish_line(const float* values, const float* bias, int64_t count, T* out) {
  for (int64_t at = 0; at < count; at += kLanes) {
    const Vec value = load_some(values + at, count - at);
    store_some(out + at, bias == nullptr ? value : value + load_some(bias + at, count - at), count - at);
  }
}

static void finish(const float* values, const float* bias, int64_t count, void* out, bool bf16) {
  bf16 ? finish_line(values, bias, count, static_cast<uint16_t*>(out))
       : finish_line(values, bias, count, static_cast<float*>(out));
}

template <typename T>
static void weigh_lines(const Lines& lines, const float* weights, int64_t width, T* out) {
  for (int64_t at = 0; at < width; at += kLanes) {
    Vec total = {};
    for (int64_t k = 0; k < lines.count; ++k) {
      total += weights[k] * load_some(lines.data + lines.which[k] * width + at, width - at);
    }
    store_some(out + at, total, width - at);
  }
}

static void weigh(const Lines& lines, const float* weights, int64_t width, void* out, bool bf16) {
  bf16 ? weigh_lines(lines, weights, width, static_cast<uint16_t*>(out))
       : weigh_lines(lines, weights, width, static_cast<float*>(out));
}
