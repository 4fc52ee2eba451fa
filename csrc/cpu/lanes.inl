// Vectors of kLanes floats, by the compiler's own vector types: the same source serves every instruction set. To be
// included inside a unit's anonymous namespace, after kLanes is set and the target is chosen.

using Vec = float __attribute__((vector_size(kLanes * 4)));
using VecD = double __attribute__((vector_size(kLanes * 8)));
using VecI = int32_t __attribute__((vector_size(kLanes * 4)));
using VecU = uint32_t __attribute__((vector_size(kLanes * 4)));
using VecH = uint16_t __attribute__((vector_size(kLanes * 2)));
using VecUnaligned = float __attribute__((vector_size(kLanes * 4), aligned(4)));
using VecS = int16_t __attribute__((vector_size(kLanes * 2)));
using VecB = int8_t __attribute__((vector_size(kLanes)));
using VecBUnaligned = int8_t __attribute__((vector_size(kLanes), aligned(1)));
using VecHUnaligned = uint16_t __attribute__((vector_size(kLanes * 2), aligned(2)));
using VecOctets = uint8_t __attribute__((vector_size(kLanes)));
using VecOctetsUnaligned = uint8_t __attribute__((vector_size(kLanes), aligned(1)));
using VecWords = float __attribute__((vector_size(kLanes * 4), aligned(2)));  // of pairs of numbers of 16 bits

// A product added to a sum, rounded once where the instruction set has that. Left to themselves, GCC 13 and 14 do so in
// some loops and not in others: slower, and a token's last bits would depend on how many are computed with it.
#ifndef FOVEATE_FUSED
#define FOVEATE_FUSED(total, one, other) ((total) + (one) * (other))
#endif

#define FOVEATE_ALWAYS inline __attribute__((always_inline))
#define FOVEATE_INLINE static FOVEATE_ALWAYS

FOVEATE_INLINE Vec load(const float* from) {
  return *reinterpret_cast<const VecUnaligned*>(from);
}

FOVEATE_INLINE void store(float* to, Vec value) {
  *reinterpret_cast<VecUnaligned*>(to) = value;
}

// One number in every lane. Not Vec{} + value: that is another number where value is -0, and is added, again and again.
FOVEATE_INLINE Vec spread(float value) {
  return value - Vec{};
}

FOVEATE_INLINE Vec load(const uint16_t* from) {
#ifdef FOVEATE_INTS_OF_HALVES  // one instruction, where GCC 12 makes four
  return reinterpret_cast<Vec>(reinterpret_cast<VecU>(FOVEATE_INTS_OF_HALVES(from)) << 16);
#else
  const VecH half = *reinterpret_cast<const VecHUnaligned*>(from);
  return reinterpret_cast<Vec>(__builtin_convertvector(half, VecU) << 16);
#endif
}

FOVEATE_INLINE Vec load(const int8_t* from) {
#ifdef FOVEATE_INTS_OF_BYTES  // one instruction, which GCC 12 does not find by itself
  return __builtin_convertvector(reinterpret_cast<VecI>(FOVEATE_INTS_OF_BYTES(from)), Vec);
#else
  const VecB bytes = *reinterpret_cast<const VecBUnaligned*>(from);
  const VecS shorts = __builtin_convertvector(bytes, VecS);  // one doubling at a time, or GCC 12 goes lane by lane
  return __builtin_convertvector(__builtin_convertvector(shorts, VecI), Vec);
#endif
}

FOVEATE_INLINE VecI load_octets(const uint8_t* from) {
#ifdef FOVEATE_INTS_OF_OCTETS  // one instruction, which GCC 12 does not find by itself
  return reinterpret_cast<VecI>(FOVEATE_INTS_OF_OCTETS(from));
#else
  const VecOctets octets = *reinterpret_cast<const VecOctetsUnaligned*>(from);
  return __builtin_convertvector(__builtin_convertvector(octets, VecH), VecI);
#endif
}

// table[index & 15], of 16 numbers.
FOVEATE_INLINE Vec looked_up(const float* table, VecI index) {
#ifdef FOVEATE_LOOK_UP
  return FOVEATE_LOOK_UP(table, index);
#else
  Vec found;
  for (int lane = 0; lane < kLanes; ++lane) {
    found[lane] = table[index[lane] & 15];
  }
  return found;
#endif
}

// The nearest bf16, ties to even, in the upper half of each lane; NaN stays NaN. What the lower half holds is left.
FOVEATE_INLINE VecU rounded(Vec value) {
  const VecU bits = reinterpret_cast<VecU>(value);
  return value == value ? bits + 0x7fff + ((bits >> 16) & 1) : VecU{} + 0x7fc00000;
}

FOVEATE_INLINE void store(uint16_t* to, Vec value) {
  *reinterpret_cast<VecHUnaligned*>(to) = __builtin_convertvector(rounded(value) >> 16, VecH);
}

FOVEATE_INLINE float widen(float value) {
  return value;
}

FOVEATE_INLINE float widen(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  return __builtin_bit_cast(float, bits);
}

FOVEATE_INLINE void narrow(float* to, float value) {
  *to = value;
}

FOVEATE_INLINE void narrow(uint16_t* to, float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  *to = value == value ? static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) : 0x7fc0;
}

template <typename V>
FOVEATE_INLINE auto sum(V value) {
  decltype(value[0] + value[0]) total = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    total += value[lane];
  }
  return total;
}

// 2^x for x <= 127: a polynomial of degree 6 fitted to 2^f on [-1/2, 1/2], relative error below 2e-9 before rounding,
// times a power of two. 0 below -126.5, where the exponent's bits become 0; NaN stays NaN.
FOVEATE_INLINE Vec exp2_of(Vec x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const Vec bounded = x < -127.0f ? Vec{} - 127.0f : x;
  const Vec shifted = bounded + kShift;
  const Vec f = bounded - (shifted - kShift);
  Vec p = Vec{} + 1.53458074e-4f;
  p = FOVEATE_FUSED(Vec{} + 1.33999312e-3f, p, f);
  p = FOVEATE_FUSED(Vec{} + 9.61848897e-3f, p, f);
  p = FOVEATE_FUSED(Vec{} + 5.55032878e-2f, p, f);
  p = FOVEATE_FUSED(Vec{} + 2.40226469e-1f, p, f);
  p = FOVEATE_FUSED(Vec{} + 6.93147206e-1f, p, f);
  p = FOVEATE_FUSED(Vec{} + 1.0f, p, f);
  const VecI exponent = reinterpret_cast<VecI>(shifted) - 0x4b400000 + 127;
  return p * reinterpret_cast<Vec>(exponent << 23);
}

template <int kStep, int... kAt>
FOVEATE_INLINE Vec exchanged(Vec value, std::integer_sequence<int, kAt...>) {
  return __builtin_shufflevector(value, value, (kAt ^ kStep)...);
}

template <int kStep = kLanes / 2>
FOVEATE_INLINE float largest(Vec value) {
  const Vec other = exchanged<kStep>(value, std::make_integer_sequence<int, kLanes>());
  value = other > value ? other : value;
  if constexpr (kStep > 1) {
    return largest<kStep / 2>(value);
  } else {
    return value[0];
  }
}

// The sum of all lanes, by halves.
template <int kStep = kLanes / 2>
FOVEATE_INLINE float folded(Vec value) {
  value += exchanged<kStep>(value, std::make_integer_sequence<int, kLanes>());
  if constexpr (kStep > 1) {
    return folded<kStep / 2>(value);
  } else {
    return value[0];
  }
}

template <int kStep, int... kAt>
FOVEATE_INLINE void swap_blocks(Vec& above, Vec& below, std::integer_sequence<int, kAt...>) {
  const Vec a = above, b = below;
  above = __builtin_shufflevector(a, b, ((kAt & kStep) ? kLanes + kAt - kStep : kAt)...);
  below = __builtin_shufflevector(a, b, ((kAt & kStep) ? kLanes + kAt : kAt + kStep)...);
}

template <int kStep>
FOVEATE_INLINE void transpose_step(Vec* rows) {
  for (int row = 0; row < kLanes; ++row) {
    if ((row & kStep) == 0) {
      swap_blocks<kStep>(rows[row], rows[row + kStep], std::make_integer_sequence<int, kLanes>());
    }
  }
  if constexpr (kStep > 1) {
    transpose_step<kStep / 2>(rows);
  }
}

// The sum of each of 2 * kStep rows in the lane of its number; the rows are spent.
template <int kStep = kLanes / 2>
FOVEATE_INLINE Vec sums_across(Vec* rows) {
  for (int row = 0; row < kStep; ++row) {
    swap_blocks<kStep>(rows[row], rows[row + kStep], std::make_integer_sequence<int, kLanes>());
    rows[row] += rows[row + kStep];
  }
  if constexpr (kStep > 1) {
    return sums_across<kStep / 2>(rows);
  } else {
    return rows[0];
  }
}

// to[c * to_row + r] = from[r * from_row + c] for a square of kLanes x kLanes.
FOVEATE_INLINE void transpose_square(const float* from, int64_t from_row, float* to, int64_t to_row) {
  Vec rows[kLanes];
  for (int row = 0; row < kLanes; ++row) {
    rows[row] = load(from + row * from_row);
  }
  transpose_step<kLanes / 2>(rows);
  for (int row = 0; row < kLanes; ++row) {
    store(to + row * to_row, rows[row]);
  }
}

using Halves = uint16_t __attribute__((vector_size(kLanes * 4)));  // the numbers of 16 bits in a vector of words

template <int kOne, int kOther, int... kAt>
FOVEATE_INLINE Vec interleave(Halves one, Halves other, std::integer_sequence<int, kAt...>) {
  constexpr int kApart = 2 * kLanes + kOther - kOne;
  return reinterpret_cast<Vec>(__builtin_shufflevector(one, other, (kOne + kAt / 2 + kAt % 2 * kApart)...));
}

// Words of two numbers of 16 bits: those of `one` from number kOne on, each below that of `other` from kOther on.
template <int kOne, int kOther>
FOVEATE_INLINE Vec side_by_side(Vec one, Vec other) {
  constexpr auto kAll = std::make_integer_sequence<int, 2 * kLanes>();
  return interleave<kOne, kOther>(reinterpret_cast<Halves>(one), reinterpret_cast<Halves>(other), kAll);
}

using ManyOctets = uint8_t __attribute__((vector_size(kLanes * 2)));
using ManyOctetsUnaligned = uint8_t __attribute__((vector_size(kLanes * 2), aligned(1)));

FOVEATE_INLINE Halves octets_as_halves(const uint8_t* from) {
#ifdef FOVEATE_HALVES_OF_OCTETS
  return reinterpret_cast<Halves>(FOVEATE_HALVES_OF_OCTETS(from));
#else
  const ManyOctets octets = *reinterpret_cast<const ManyOctetsUnaligned*>(from);
  return __builtin_convertvector(octets, Halves);
#endif
}

// table[index & 15], of 16 numbers that stand there twice.
FOVEATE_INLINE Halves looked_up(const uint16_t* table, Halves index) {
#ifdef FOVEATE_LOOK_UP_HALVES
  return reinterpret_cast<Halves>(FOVEATE_LOOK_UP_HALVES(table, index));
#else
  Halves found;
  for (int lane = 0; lane < 2 * kLanes; ++lane) {
    found[lane] = table[index[lane] & 15];
  }
  return found;
#endif
}

// What a product multiplies and sums: f32 as it lies.
struct Singles {
  static constexpr int kNumbers = 1;  // of a word
  static FOVEATE_ALWAYS Vec add(Vec total, float factor, Vec line) { return FOVEATE_FUSED(total, spread(factor), line); }
  static FOVEATE_ALWAYS Vec add(Vec total, Vec one, Vec other) { return FOVEATE_FUSED(total, one, other); }
  static FOVEATE_ALWAYS int64_t depth(int64_t numbers) { return numbers; }
  static FOVEATE_ALWAYS const float* along(const float* rows, int64_t, int64_t, int64_t, float*) { return rows; }
  static FOVEATE_ALWAYS const float* across(const float* rows, int64_t, int64_t, int64_t, float*) { return rows; }
};

#ifdef FOVEATE_ADD_PAIRS
// Pairs of bf16, the first in the lower half of a word; both products are added at once.
struct Pairs {
  static constexpr int kNumbers = 2;
  static FOVEATE_ALWAYS Vec add(Vec total, Vec one, Vec other) { return FOVEATE_ADD_PAIRS(total, one, other); }
  static FOVEATE_ALWAYS Vec add(Vec total, float factor, Vec line) {
    return add(total, reinterpret_cast<Vec>(VecU{} + __builtin_bit_cast(uint32_t, factor)), line);
  }
  static FOVEATE_ALWAYS int64_t depth(int64_t numbers) { return (numbers + 1) / 2; }

  // Factors, rows [count, numbers] that are `row` apart: neighbours become pairs, in `to`, which may be `rows`.
  static FOVEATE_ALWAYS const float* along(const float* rows, int64_t row, int64_t count, int64_t numbers, float* to) {
    for (int64_t at = 0; at < count * row; at += row) {
      for (int64_t i = 0; i < numbers; i += 2 * kLanes) {
        const Vec second = i + kLanes < numbers ? load(rows + at + i + kLanes) : Vec{};
        store(to + at + i / 2, FOVEATE_ROUND_BOTH(load(rows + at + i), second));
      }
    }
    return to;
  }

  // What they are multiplied with: a row and the one below become a row of pairs, likewise.
  static FOVEATE_ALWAYS const float* across(const float* rows, int64_t row, int64_t count, int64_t numbers, float* to) {
    for (int64_t at = 0; at < count; at += 2) {
      for (int64_t i = 0; i < numbers; i += kLanes) {
        const Vec below = at + 1 < count ? load(rows + (at + 1) * row + i) : Vec{};
        const Vec both = FOVEATE_ROUND_BOTH(load(rows + at * row + i), below);
        store(to + at / 2 * row + i, side_by_side<0, kLanes>(both, both));
      }
    }
    return to;
  }
};
#endif

// Words of a row: f32 numbers, or pairs as they lie.
template <typename Product, typename T>
FOVEATE_INLINE Vec load_words(const T* row, int64_t word) {
  if constexpr (Product::kNumbers == 1) {
    return load(row + word);
  } else {
    return *reinterpret_cast<const VecWords*>(row + 2 * word);
  }
}

// c[m, n] = (or +=) sum over k of a[m * a_row + k * a_step] * b[k * b_row + n], a tile of rows x columns of vectors. What
// is there is added last: sums of sums round less than one long sum.
template <typename Product, int kRows, int kColumns>
FOVEATE_INLINE void multiply_tile(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_row,
                                  float* c, int64_t c_row, int64_t depth, bool accumulate) {
  Vec total[kRows][kColumns] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec line[kColumns];
    for (int column = 0; column < kColumns; ++column) {
      line[column] = load(b + k * b_row + column * kLanes);
    }
    for (int row = 0; row < kRows; ++row) {
      const float factor = a[row * a_row + k * a_step];
      for (int column = 0; column < kColumns; ++column) {
        total[row][column] = Product::add(total[row][column], factor, line[column]);
      }
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      float* to = c + row * c_row + column * kLanes;
      store(to, accumulate ? load(to) + total[row][column] : total[row][column]);
    }
  }
}

struct Factor {
  const float* data;
  int64_t row, step;
};

template <typename Product, int kColumns, int kRows>
static void multiply_rows(Factor a, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t num_rows,
                          int64_t depth, bool accumulate) {
  while (num_rows >= kRows) {
    multiply_tile<Product, kRows, kColumns>(a.data, a.row, a.step, b, b_row, c, c_row, depth, accumulate);
    a.data += kRows * a.row;
    c += kRows * c_row;
    num_rows -= kRows;
  }
  if constexpr (kRows > 1) {
    if (num_rows > 0) {
      multiply_rows<Product, kColumns, kRows - 1>(a, b, b_row, c, c_row, num_rows, depth, accumulate);
    }
  }
}

template <typename Product, int kColumns>
static void multiply_columns(Factor a, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t num_rows,
                             int64_t num_vectors, int64_t depth, bool accumulate) {
  constexpr int kRows = kColumns == 1 ? 2 * kTileRows : kTileRows;  // enough sums to hide how long each takes
  for (; num_vectors >= kColumns; num_vectors -= kColumns, b += kColumns * kLanes, c += kColumns * kLanes) {
    multiply_rows<Product, kColumns, kRows>(a, b, b_row, c, c_row, num_rows, depth, accumulate);
  }
  if constexpr (kColumns > 1) {
    if (num_vectors > 0) {
      multiply_columns<Product, kColumns - 1>(a, b, b_row, c, c_row, num_rows, num_vectors, depth, accumulate);
    }
  }
}

// The whole product: c [num_rows, num_vectors * kLanes].
template <typename Product>
static void multiply_vectors(Factor a, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t num_rows,
                             int64_t num_vectors, int64_t depth, bool accumulate) {
  if (kTileColumns == 4 && (num_vectors == 5 || num_vectors == 6)) {  // 3 + 2 and 3 + 3 keep more of the unit busy
    multiply_columns<Product, 3>(a, b, b_row, c, c_row, num_rows, num_vectors, depth, accumulate);
  } else {
    multiply_columns<Product, kTileColumns>(a, b, b_row, c, c_row, num_rows, num_vectors, depth, accumulate);
  }
}
