// Lines of bytes as weighted sums of others, for one instruction set; to be included after lanes.inl.
//
// Layout:  rows of pixels are turned, kPixelRows at a time, so that pixels above each other are a line and a sum along
//          each row is one of lines.
// Numbers: 32-bit ints, rounded once to bytes; no sum overflows, so all is exact in any order.
// Bound:   multiply-add, and widening bytes.


constexpr int kPixelRows = kLanes < 8 ? 8 : kLanes;
constexpr int kChunk = 4 * 8, kChunkVectors = kChunk / kLanes;  // bytes of a line that are summed at once

FOVEATE_INLINE uint8_t nearest_byte(int32_t total) {
  const int32_t whole = total >> kWeightBits;
  return static_cast<uint8_t>(whole < 0 ? 0 : whole > 255 ? 255 : whole);
}

FOVEATE_INLINE void blend_chunk(const uint8_t* from, int64_t line, const int32_t* weights, int64_t count, uint8_t* to) {
  VecI totals[kChunkVectors];
  for (VecI& total : totals) {
    total = VecI{} + (1 << (kWeightBits - 1));
  }
  for (int64_t i = 0; i < count; ++i, from += line) {
    for (int vector = 0; vector < kChunkVectors; ++vector) {
      totals[vector] += weights[i] * load_octets(from + vector * kLanes);
    }
  }
  int32_t sums[kChunk];
  std::memcpy(sums, totals, sizeof(sums));
  for (int at = 0; at < kChunk; ++at) {
    to[at] = nearest_byte(sums[at]);
  }
}

static uint8_t blend_byte(const uint8_t* from, int64_t line, const int32_t* weights, int64_t count) {
  int32_t total = 1 << (kWeightBits - 1);
  for (int64_t i = 0; i < count; ++i) {
    total += weights[i] * from[i * line];
  }
  return nearest_byte(total);
}

static void blend_lines(const Windows& windows, const uint8_t* from, uint8_t* to, int64_t bytes, int64_t begin,
                        int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const uint8_t* first = from + windows.first[n] * bytes;
    const int32_t* weights = windows.weights + n * windows.most;
    for (int64_t at = 0; at < bytes && bytes < kChunk; ++at) {
      to[n * bytes + at] = blend_byte(first + at, bytes, weights, windows.count[n]);
    }
    for (int64_t at = 0; at < bytes && bytes >= kChunk; at += kChunk) {
      const int64_t here = at + kChunk <= bytes ? at : bytes - kChunk;  // the last over some of the one before
      blend_chunk(first + here, bytes, weights, windows.count[n], to + n * bytes + here);
    }
  }
}

// Where a pixel lies; where rows are missing the last one stands in for them.
FOVEATE_INLINE const uint8_t* pixel_of(const PixelRows& rows, int64_t row, int64_t x) {
  return rows.from + ((row < rows.count ? row : rows.count - 1) * rows.width + x) * rows.channels;
}

// kLanes pixels of four bytes of each of kLanes rows; the floats are moved only.
FOVEATE_INLINE void turn_square(const PixelRows& rows, int64_t first, int64_t x, uint8_t* to) {
  Vec square[kLanes];
  for (int row = 0; row < kLanes; ++row) {
    std::memcpy(&square[row], pixel_of(rows, first + row, x), sizeof(Vec));
  }
  transpose_step<kLanes / 2>(square);
  for (int column = 0; column < kLanes; ++column) {
    std::memcpy(to + column * 4 * kPixelRows, &square[column], sizeof(Vec));
  }
}

// Lines [width, kPixelRows, 4].
static void turn_rows(const PixelRows& rows, uint8_t* lines) {
  const int64_t in_squares = rows.channels == 4 ? rows.width / kLanes * kLanes : 0;
  for (int64_t x = 0; x < in_squares; x += kLanes) {
    for (int row = 0; row < kPixelRows; row += kLanes) {
      turn_square(rows, row, x, lines + 4 * (x * kPixelRows + row));
    }
  }
  const int64_t last = rows.width - 1;
  for (int64_t x = in_squares; x < last; ++x) {
    for (int64_t row = 0; row < kPixelRows; ++row) {
      std::memcpy(lines + 4 * (x * kPixelRows + row), pixel_of(rows, row, x), 4);  // perhaps with one of the next
    }
  }
  for (int64_t row = 0; row < kPixelRows; ++row) {
    std::memcpy(lines + 4 * (last * kPixelRows + row), pixel_of(rows, row, last), 3);
  }
}

static void blend_rows(const Windows& windows, const PixelRows& rows, uint8_t* scratch) {
  uint8_t* made = scratch + 4 * kPixelRows * rows.width;
  turn_rows(rows, scratch);
  blend_lines(windows, scratch, made, 4 * kPixelRows, 0, rows.new_width);
  for (int64_t row = 0; row < rows.count; ++row) {
    uint8_t* to = rows.to + row * rows.new_width * 3;
    const int64_t last = rows.new_width - 1;
    for (int64_t x = 0; x < last; ++x) {
      std::memcpy(to + 3 * x, made + 4 * (x * kPixelRows + row), 4);  // of which the next one takes the last back
    }
    std::memcpy(to + 3 * last, made + 4 * (last * kPixelRows + row), 3);
  }
}
