// Kernels of products of a matrix with few lines; to be included after pointwise.inl.
//
// Layout:  weights as they are stored, rows of the matrices; four rows at once, each against as many lines as leave the
//          sums in registers. The next four rows are fetched ahead: a row is about a page, behind whose end the processor
//          does not look by itself.
// Numbers: f32, or pairs of bf16 as they lie; sums in f32, one order of additions for each instruction set. Weights of 4
//          bits are looked up in a table of 16 numbers, which fits a register.
// Bound:   reading the weights once; of pairs for some dozen lines multiply-add.

constexpr int kWeightRows = 4, kInputLines = kLanes == 16 ? 4 : 3;
constexpr int kIntoSecondLevel = 2;  // of caches; into the first, a sixth of the rate was lost on a Zen 4

// A vector of words at the beginning or, where fewer numbers than it holds are left, what they and zeros make.
template <typename Product, bool kWhole, typename T>
FOVEATE_INLINE Vec words_of(const T* from, int64_t left) {
  if constexpr (kWhole) {
    return load_words<Product>(from, 0);
  } else if constexpr (Product::kNumbers == 1) {
    return load_some(from, left);
  } else {
    T some[Product::kNumbers * kLanes] = {};
    std::memcpy(some, from, left * sizeof(T));
    return load_words<Product>(some, 0);
  }
}

template <typename Product, bool kWhole, int kRows, int kInputs, typename W, typename X>
FOVEATE_INLINE void dot_step(const W* rows, int64_t depth, const X* const* lines, int64_t at,
                             Vec (&total)[kInputs * kRows]) {
  Vec input[kInputs];
  for (int n = 0; n < kInputs; ++n) {
    input[n] = words_of<Product, kWhole>(lines[n] + at, depth - at);
  }
  for (int row = 0; row < kRows; ++row) {
    const W* from = rows + row * depth + at;
    __builtin_prefetch(from + kRows * depth, 0, kIntoSecondLevel);
    const Vec weight = words_of<Product, kWhole>(from, depth - at);
    for (int n = 0; n < kInputs; ++n) {
      total[n * kRows + row] = Product::add(total[n * kRows + row], weight, input[n]);
    }
  }
}

// The sums of each row and line, all lanes together.
template <int kRows, int kInputs>
FOVEATE_INLINE void put_sums(Vec (&total)[kInputs * kRows], float* out, int64_t out_row) {
  float sums[kInputs * kRows];
  if constexpr (kInputs * kRows % kLanes == 0) {
    for (int first = 0; first < kInputs * kRows; first += kLanes) {
      store(sums + first, sums_across(total + first));
    }
  } else {
    for (int i = 0; i < kInputs * kRows; ++i) {
      sums[i] = folded(total[i]);
    }
  }
  for (int n = 0; n < kInputs; ++n) {
    std::memcpy(out + n * out_row, sums + n * kRows, sizeof(float) * kRows);
  }
}

template <typename Product, int kRows, int kInputs, typename W, typename X>
static void dot_tile(const W* rows, int64_t depth, const X* const* lines, float* out, int64_t out_row) {
  constexpr int kStep = Product::kNumbers * kLanes;
  Vec total[kInputs * kRows] = {};
  const int64_t whole = depth / kStep * kStep;
  for (int64_t at = 0; at < whole; at += kStep) {
    dot_step<Product, true, kRows, kInputs>(rows, depth, lines, at, total);
  }
  if (whole < depth) {  // a question inside the loop cost half the rate
    dot_step<Product, false, kRows, kInputs>(rows, depth, lines, whole, total);
  }
  put_sums<kRows, kInputs>(total, out, out_row);
}

// Weights of 4 bits: byte i of a group holds weight i and, in its upper half, weight kCodeGroup / 2 + i.
struct Codes {
  const uint8_t* data;
  const float* scales;

  Codes operator+(int64_t numbers) const { return {data + numbers / 2, scales + numbers / kCodeGroup}; }
};

alignas(64) constexpr float kLevels[16] = {FOVEATE_NORMAL_FLOAT4};

// The same in bf16, which is exact, twice.
struct LevelsTwice {
  alignas(64) uint16_t numbers[32] = {};

  constexpr LevelsTwice() {
    for (int i = 0; i < 32; ++i) {
      numbers[i] = static_cast<uint16_t>(__builtin_bit_cast(uint32_t, kLevels[i % 16]) >> 16);
    }
  }
};

[[maybe_unused]] constexpr LevelsTwice kLevelsTwice;

// What the codes of a group stand for, in the order of the weights: numbers, or pairs of them.
template <typename Product>
using Group = Vec[kCodeGroup / kLanes / Product::kNumbers];

template <typename Product>
FOVEATE_INLINE void read_group(const uint8_t* codes, Group<Product>& to) {
  constexpr int kHalf = kCodeGroup / kLanes / Product::kNumbers / 2;
  if constexpr (Product::kNumbers == 2) {
    for (int i = 0; i < kHalf; ++i) {
      const Halves some = octets_as_halves(codes + 2 * i * kLanes);
      to[i] = reinterpret_cast<Vec>(looked_up(kLevelsTwice.numbers, some));
      to[kHalf + i] = reinterpret_cast<Vec>(looked_up(kLevelsTwice.numbers, some >> 4));
    }
  } else {
#ifdef FOVEATE_LEVELS_OF_CODES  // bytes are shuffled in one instruction, floats in four
    alignas(64) int8_t numbers[kCodeGroup];
    FOVEATE_LEVELS_OF_CODES(codes, numbers);
    for (int i = 0; i < 2 * kHalf; ++i) {
      to[i] = load(numbers + i * kLanes);
    }
#else
    for (int i = 0; i < kHalf; ++i) {
      const VecI some = load_octets(codes + i * kLanes);
      to[i] = looked_up(kLevels, some);
      to[kHalf + i] = looked_up(kLevels, some >> 4);
    }
#endif
  }
}

template <typename Product, int kRows, int kInputs, typename X>
static void dot_tile(Codes rows, int64_t depth, const X* const* lines, float* out, int64_t out_row) {
  Vec total[kInputs * kRows] = {};
  for (int64_t group = 0; group < depth; group += kCodeGroup) {
    for (int row = 0; row < kRows; ++row) {
      const Codes from = rows + (row * depth + group);
      __builtin_prefetch(from.data + kRows * depth / 2, 0, kIntoSecondLevel);
      Group<Product> weights;
      read_group<Product>(from.data, weights);
      for (int n = 0; n < kInputs; ++n) {
        Vec sum = {};
        for (int i = 0; i < kCodeGroup / kLanes / Product::kNumbers; ++i) {
          sum = Product::add(sum, weights[i], load_words<Product>(lines[n] + group, i * kLanes));
        }
        total[n * kRows + row] = Singles::add(total[n * kRows + row], *from.scales, sum);
      }
    }
  }
  put_sums<kRows, kInputs>(total, out, out_row);
}

template <typename Product, int kRows, int kInputs, typename Rows, typename X>
static void dot_lines(Rows rows, int64_t depth, const X* lines, const int64_t* which, int64_t count, float* out,
                      int64_t out_row) {
  int64_t n = 0;
  for (; n + kInputs <= count; n += kInputs) {
    const X* some[kInputs];
    for (int i = 0; i < kInputs; ++i) {
      some[i] = lines + which[n + i] * depth;
    }
    dot_tile<Product, kRows, kInputs>(rows, depth, some, out + n * out_row, out_row);
  }
  if constexpr (kInputs > 1) {
    if (n < count) {
      dot_lines<Product, kRows, kInputs - 1>(rows, depth, lines, which + n, count - n, out + n * out_row, out_row);
    }
  }
}

template <typename Product, typename X, typename Rows>
static void dot_rows(Rows rows, int64_t depth, int64_t begin, int64_t end, const Lines& lines, float* out,
                     int64_t out_row) {
  const X* inputs = static_cast<const X*>(lines.data);
  int64_t row = begin;
  for (; row + kWeightRows <= end; row += kWeightRows) {
    dot_lines<Product, kWeightRows, kInputLines>(rows + row * depth, depth, inputs, lines.which, lines.count,
                                                 out + row - begin, out_row);
  }
  for (; row < end; ++row) {
    dot_lines<Product, 1, kInputLines>(rows + row * depth, depth, inputs, lines.which, lines.count, out + row - begin,
                                       out_row);
  }
}

static void line_products(const WeightRows& weights, int64_t begin, int64_t end, const Lines& lines, float* out,
                          int64_t out_row) {
  const uint16_t* halves = static_cast<const uint16_t*>(weights.data);
  const int64_t depth = weights.depth;
  const Codes codes = {static_cast<const uint8_t*>(weights.data), weights.scales};
  if (lines.bf16) {
    return weights.kind == WeightKind::kBfloat16
               ? dot_rows<Widest, uint16_t>(halves, depth, begin, end, lines, out, out_row)
               : dot_rows<Widest, uint16_t>(codes, depth, begin, end, lines, out, out_row);
  }
  switch (weights.kind) {
    case WeightKind::kFloat:
      return dot_rows<Singles, float>(static_cast<const float*>(weights.data), depth, begin, end, lines, out, out_row);
    case WeightKind::kBfloat16:
      return dot_rows<Singles, float>(halves, depth, begin, end, lines, out, out_row);
    case WeightKind::kNormalFloat4:
      return dot_rows<Singles, float>(codes, depth, begin, end, lines, out, out_row);
    case WeightKind::kInt8:
      dot_rows<Singles, float>(static_cast<const int8_t*>(weights.data), depth, begin, end, lines, out, out_row);
  }
  for (int64_t n = 0; n < lines.count; ++n) {
    for (int64_t row = begin; row < end; ++row) {
      out[n * out_row + row - begin] *= weights.scales[row];
    }
  }
}

template <typename T>
static void code_numbers(Codes rows, int64_t count, T* out) {
  for (int64_t at = 0; at < count; at += kCodeGroup) {
    const Codes from = rows + at;
    Group<Singles> numbers;
    read_group<Singles>(from.data, numbers);
    for (int i = 0; i < kCodeGroup / kLanes; ++i) {
      store(out + at + i * kLanes, numbers[i] * *from.scales);
    }
  }
}

static void row_numbers(const WeightRows& weights, int64_t begin, int64_t end, void* out, bool bf16) {
  const Codes codes = {static_cast<const uint8_t*>(weights.data), weights.scales};
  const int64_t count = (end - begin) * weights.depth;
  bf16 ? code_numbers(codes + begin * weights.depth, count, static_cast<uint16_t*>(out))
       : code_numbers(codes + begin * weights.depth, count, static_cast<float*>(out));
}

template <typename T>
static void gate_line(const float* gate, const float* up, int64_t count, T* out) {
  along_row(count, [=](int64_t at, auto left) {
    const Vec value = load_some(gate + at, left);
    store_some(out + at, value * sigmoid(value) * load_some(up + at, left), left);
  });
}

static void gate_lines(const float* gate, const float* up, int64_t count, void* out, bool bf16) {
  bf16 ? gate_line(gate, up, count, static_cast<uint16_t*>(out)) : gate_line(gate, up, count, static_cast<float*>(out));
}

static void widen_line(const uint16_t* from, int64_t count, float* to) {
  along_row(count, [=](int64_t at, auto left) { store_some(to + at, load_some(from + at, left), left); });
}

template <typename T>
static void finish_line(const float* values, const float* bias, int64_t count, T* out) {
  along_row(count, [=](int64_t at, auto left) {
    const Vec value = load_some(values + at, left);
    store_some(out + at, bias == nullptr ? value : value + load_some(bias + at, left), left);
  });
}

static void finish(const float* values, const float* bias, int64_t count, void* out, bool bf16) {
  bf16 ? finish_line(values, bias, count, static_cast<uint16_t*>(out))
       : finish_line(values, bias, count, static_cast<float*>(out));
}

template <typename T>
static void weigh_lines(const Lines& lines, const float* weights, int64_t width, T* out) {
  const float* data = static_cast<const float*>(lines.data);
  along_row(width, [&](int64_t at, auto left) {
    Vec total = {};
    for (int64_t k = 0; k < lines.count; ++k) {
      total += weights[k] * load_some(data + lines.which[k] * width + at, left);
    }
    store_some(out + at, total, left);
  });
}

static void weigh(const Lines& lines, const float* weights, int64_t width, void* out, bool bf16) {
  bf16 ? weigh_lines(lines, weights, width, static_cast<uint16_t*>(out))
       : weigh_lines(lines, weights, width, static_cast<float*>(out));
}

#ifdef FOVEATE_TILES

static void pack_lines(const Lines& lines, int64_t first, int64_t depth, float* block) {
  const float* words_of_lines = static_cast<const float*>(lines.data);
  const int64_t words = depth / 2;
  for (int64_t half = 0; half < kBlockLines; half += kTile) {
    for (int64_t at = 0; at < words; at += kTile) {
      Vec rows[kTile];
      for (int64_t i = 0; i < kTile; ++i) {
        const int64_t line = first + half + i, left = words - at < kTile ? words - at : kTile;
        rows[i] = line < lines.count ? FOVEATE_LOAD_WORDS(words_of_lines + lines.which[line] * words + at, left) : Vec{};
      }
      transpose_step<kLanes / 2>(rows);
      for (int64_t pair = 0; pair < kTile; ++pair) {
        store(block + (at + pair) * kBlockLines + half, rows[pair]);
      }
    }
  }
}

// Sums [16, 16] of rows of weights and lines, rows kBlockLines apart, to out [lines, out_row].
FOVEATE_INLINE void put_lines(const float* sums, int64_t num_lines, float* out, int64_t out_row) {
  Vec rows[kTile];
  for (int64_t row = 0; row < kTile; ++row) {
    rows[row] = load(sums + row * kBlockLines);
  }
  transpose_step<kLanes / 2>(rows);
  for (int64_t line = 0; line < num_lines && line < kTile; ++line) {
    store(out + line * out_row, rows[line]);
  }
}

// Rows that are no multiple of 16: the last tile begins earlier and its first rows are computed twice.
static void packed_products(const WeightRows& weights, int64_t begin, int64_t end, const float* blocks, int64_t count,
                            float* out, int64_t out_row) {
  const TileWork tiles;
  const int64_t words = weights.depth / 2, steps = words / kTile, rest = words % kTile, last = end - begin - kTile;
  const float* rows = static_cast<const float*>(weights.data) + begin * words;
  alignas(64) float sums[2 * kTile * kBlockLines], rests[2][kTile * kTile];
  for (int64_t row = 0; row <= last + kTile - 1; row += 2 * kTile) {
    const int64_t starts[2] = {row < last ? row : last, row + kTile < last ? row + kTile : last};
    const bool two = starts[1] > starts[0];
    LeftTile left[2];
    for (int tile = 0; tile < 2; ++tile) {
      const float* data = rows + starts[tile] * words;
      if (rest > 0) {
        copy_tile_rows(data + steps * kTile, words, kTile, rest, rests[tile], kTile);
      }
      left[tile] = {data, words, rests[tile], kTile, sums + tile * kTile * kBlockLines, kBlockLines};
    }
    for (int64_t line = 0; line < count; line += kBlockLines) {
      const float* block = blocks + line / kBlockLines * block_floats(weights.depth);
      const RightTiles right = {block, kBlockLines, block + steps * kTile * kBlockLines, kBlockLines};
      const bool wide = count - line > kTile;
      const auto run = two ? (wide ? &tile_block<2, 2> : &tile_block<2, 1>)
                           : (wide ? &tile_block<1, 2> : &tile_block<1, 1>);
      run(left, right, 0, steps, rest > 0, false);
      for (int tile = 0; tile < (two ? 2 : 1); ++tile) {
        float* to = out + line * out_row + starts[tile];
        put_lines(left[tile].sums, count - line, to, out_row);
        if (wide) {
          put_lines(left[tile].sums + kTile, count - line - kTile, to + kTile * out_row, out_row);
        }
      }
    }
  }
}

#else

constexpr decltype(MatvecKernels::pack) pack_lines = nullptr;
constexpr decltype(MatvecKernels::packed_products) packed_products = nullptr;

#endif
