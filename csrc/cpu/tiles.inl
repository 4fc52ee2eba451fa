// The widest product that a unit has, and `multiply`, which runs it: vectors (lanes.inl), or tiles of AMX where the unit
// sets FOVEATE_TILES and says what these are:
//
//   TileWork                                 what a thread does with tiles lies in the life of one
//   FOVEATE_TILE_ZERO(tile), FOVEATE_TILE_LOAD(tile, from, bytes), FOVEATE_TILE_STORE(tile, to, bytes)
//   FOVEATE_TILE_ADD(sums, left, right)      a tile of f32 += 16 rows of 16 pairs times 16 rows of pairs of 16 columns
//   FOVEATE_LOAD_WORDS(from, count)          the first words, then zeros; nothing behind them is read
//
// Tiles are 16 rows of 16 words. Tiles 0 to 3 are sums, 4 and 5 rows of the left side, 6 and 7 columns of the right one.

#ifdef FOVEATE_TILES

constexpr bool kHasTiles = true;

struct Tiles : Pairs {};
using Widest = Tiles;

constexpr int64_t kTile = 16;
constexpr int64_t kTileDepth = 320, kTileWidth = 512;  // words of a row that is not part of 16, and of a line of sums
constexpr int64_t kTurnedWords = 128 * 64;

// Sixteen rows of the left side: those words that fill whole tiles as they lie, and the rest with zeros behind it.
struct LeftTile {
  const float* data;
  int64_t row;
  const float* rest;
  int64_t rest_row;
  float* sums;
  int64_t sums_row;
};

struct RightTiles {
  const float* data;
  int64_t row;
  const float* rest;
  int64_t rest_row;
};

template <int kDown, int kAcross>
FOVEATE_INLINE void tile_step(const float* above, int64_t above_row, const float* below, int64_t below_row,
                              const float* right, int64_t right_row) {
  FOVEATE_TILE_LOAD(6, right, right_row * 4);
  FOVEATE_TILE_LOAD(4, above, above_row * 4);
  FOVEATE_TILE_ADD(0, 4, 6);
  if constexpr (kAcross > 1) {
    FOVEATE_TILE_LOAD(7, right + kTile, right_row * 4);
    FOVEATE_TILE_ADD(1, 4, 7);
  }
  if constexpr (kDown > 1) {
    FOVEATE_TILE_LOAD(5, below, below_row * 4);
    FOVEATE_TILE_ADD(2, 5, 6);
    if constexpr (kAcross > 1) {
      FOVEATE_TILE_ADD(3, 5, 7);
    }
  }
}

// Up to two tiles down and two across; what is there already is where the sums begin.
template <int kDown, int kAcross>
static void tile_block(const LeftTile (&left)[2], const RightTiles& right, int64_t column, int64_t steps, bool rest,
                       bool accumulate) {
  const LeftTile &above = left[0], &below = left[kDown - 1];
  float *above_sums = above.sums + column, *below_sums = below.sums + column;
  if (accumulate) {
    FOVEATE_TILE_LOAD(0, above_sums, above.sums_row * 4);
    if constexpr (kAcross > 1) {
      FOVEATE_TILE_LOAD(1, above_sums + kTile, above.sums_row * 4);
    }
    if constexpr (kDown > 1) {
      FOVEATE_TILE_LOAD(2, below_sums, below.sums_row * 4);
    }
    if constexpr (kDown > 1 && kAcross > 1) {
      FOVEATE_TILE_LOAD(3, below_sums + kTile, below.sums_row * 4);
    }
  } else {
    FOVEATE_TILE_ZERO(0);
    FOVEATE_TILE_ZERO(1);
    FOVEATE_TILE_ZERO(2);
    FOVEATE_TILE_ZERO(3);
  }
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t at = step * kTile;
    tile_step<kDown, kAcross>(above.data + at, above.row, below.data + at, below.row,
                              right.data + at * right.row + column, right.row);
  }
  if (rest) {
    tile_step<kDown, kAcross>(above.rest, above.rest_row, below.rest, below.rest_row, right.rest + column,
                              right.rest_row);
  }
  FOVEATE_TILE_STORE(0, above_sums, above.sums_row * 4);
  if constexpr (kAcross > 1) {
    FOVEATE_TILE_STORE(1, above_sums + kTile, above.sums_row * 4);
  }
  if constexpr (kDown > 1) {
    FOVEATE_TILE_STORE(2, below_sums, below.sums_row * 4);
  }
  if constexpr (kDown > 1 && kAcross > 1) {
    FOVEATE_TILE_STORE(3, below_sums + kTile, below.sums_row * 4);
  }
}

// to [16, words] from `rows` rows of words; what is missing is zero.
FOVEATE_INLINE void copy_tile_rows(const float* from, int64_t from_row, int64_t rows, int64_t words, float* to,
                                   int64_t to_row) {
  for (int64_t row = 0; row < kTile; ++row) {
    for (int64_t at = 0; at < words; at += kLanes) {
      const int64_t left = words - at < kLanes ? words - at : kLanes;
      store(to + row * to_row + at, row < rows ? FOVEATE_LOAD_WORDS(from + row * from_row + at, left) : Vec{});
    }
  }
}

// As multiply_vectors, of factors that lie side by side; depth in words.
static void multiply_tiles(Factor a, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t num_rows,
                           int64_t num_vectors, int64_t depth, bool accumulate) {
  const int64_t steps = depth / kTile, rest = depth % kTile, width = num_vectors * kLanes;
  const int64_t whole = steps * kTile, padded = whole + (rest > 0 ? kTile : 0);
  alignas(64) float right_rest[kTile * kTileWidth], left_rests[2][kTile * kTile];
  alignas(64) float few_rows[kTile * kTileDepth], few_sums[kTile * kTileWidth];
  if (rest > 0) {
    copy_tile_rows(b + whole * b_row, b_row, rest, width, right_rest, width);
  }
  const RightTiles right = {b, b_row, right_rest, width};
  for (int64_t first = 0; first < num_rows; first += 2 * kTile) {
    LeftTile left[2] = {};
    const bool two = num_rows - first > kTile;
    int64_t few = 0;  // rows of a tile that has not all of them
    for (int64_t tile = 0; tile <= (two ? 1 : 0); ++tile) {
      const int64_t row = first + tile * kTile, rows = num_rows - row;
      const float* data = a.data + row * a.row;
      if (rows >= kTile) {
        if (rest > 0) {
          copy_tile_rows(data + whole, a.row, kTile, rest, left_rests[tile], kTile);
        }
        left[tile] = {data, a.row, left_rests[tile], kTile, c + row * c_row, c_row};
        continue;
      }
      few = rows;
      copy_tile_rows(data, a.row, rows, depth, few_rows, padded);
      if (accumulate) {
        copy_tile_rows(c + row * c_row, c_row, rows, width, few_sums, width);
      }
      left[tile] = {few_rows, padded, few_rows + whole, padded, few_sums, width};
    }
    for (int64_t column = 0; column < width; column += 2 * kTile) {
      const bool wide = width - column > kTile;
      const auto block = two ? (wide ? &tile_block<2, 2> : &tile_block<2, 1>)
                             : (wide ? &tile_block<1, 2> : &tile_block<1, 1>);
      block(left, right, column, steps, rest > 0, accumulate);
    }
    for (int64_t row = 0; row < few; ++row) {
      float* to = c + (num_rows - few + row) * c_row;
      for (int64_t at = 0; at < width; at += kLanes) {
        store(to + at, load(few_sums + row * width + at));
      }
    }
  }
}

// Factors that lie below each other are brought side by side in `to`, and `a` is then those; false where they do not fit.
static bool turn(Factor& a, int64_t num_rows, int64_t depth, float* to) {
  const int64_t rows = (num_rows + kTile - 1) / kTile * kTile, padded = (depth + kTile - 1) / kTile * kTile;
  if (a.row != 1 || a.step < rows || rows * padded > kTurnedWords) {
    return false;
  }
  for (int64_t row = 0; row < rows; row += kTile) {
    for (int64_t word = 0; word < padded; word += kTile) {
      Vec square[kTile];
      for (int64_t i = 0; i < kTile; ++i) {
        square[i] = word + i < depth ? load(a.data + (word + i) * a.step + row) : Vec{};
      }
      transpose_step<kLanes / 2>(square);
      for (int64_t i = 0; i < kTile; ++i) {
        store(to + (row + i) * padded + word, square[i]);
      }
    }
  }
  a = {to, padded, 1};
  return true;
}

// Whether a product with rows, columns and a depth that are not whole tiles is what pairs in vectors give.
static bool tiles_agree() {
  constexpr int64_t kRows = 37, kPairs = 23, kColumns = 3 * kTile;
  float left[kRows * kPairs], right[kPairs * kColumns], sums[2][kRows * kColumns];
  uint32_t noise = 1;
  for (float* words : {left, right}) {
    for (int64_t i = 0; i < (words == left ? kRows * kPairs : kPairs * kColumns); ++i) {
      noise = noise * 1664525 + 1013904223;
      words[i] = __builtin_bit_cast(float, (noise & 0x80ff80ffu) | 0x3f003f00u);  // two numbers of 0.5 to 2
    }
  }
  const TileWork tiles;
  multiply_tiles({left, kPairs, 1}, right, kColumns, sums[0], kColumns, kRows, kColumns / kLanes, kPairs, false);
  multiply_vectors<Pairs>({left, kPairs, 1}, right, kColumns, sums[1], kColumns, kRows, kColumns / kLanes, kPairs, false);
  for (int64_t i = 0; i < kRows * kColumns; ++i) {
    const float apart = sums[0][i] - sums[1][i];
    if (!(apart < 1e-3f && apart > -1e-3f)) {
      return false;
    }
  }
  return true;
}

#else

constexpr bool kHasTiles = false;

struct TileWork {
  TileWork() {}
};

#ifdef FOVEATE_ADD_PAIRS
using Widest = Pairs;
#else
using Widest = Singles;
#endif

#endif

// The whole product: c [num_rows, num_vectors * kLanes].
template <typename Product = Singles>
static void multiply(Factor a, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t num_rows,
                     int64_t num_vectors, int64_t depth, bool accumulate) {
#ifdef FOVEATE_TILES
  if (std::is_same_v<Product, Tiles> && depth <= kTileDepth && num_vectors * kLanes <= kTileWidth) {
    alignas(64) float turned[kTurnedWords];
    if (a.step == 1 || turn(a, num_rows, depth, turned)) {
      return multiply_tiles(a, b, b_row, c, c_row, num_rows, num_vectors, depth, accumulate);
    }
  }
#endif
  multiply_vectors<Product>(a, b, b_row, c, c_row, num_rows, num_vectors, depth, accumulate);
}
