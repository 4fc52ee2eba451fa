// The kernels of packed attention for one instruction set, forward and backward; to be included after lanes.inl.
//
// Layout:  blocks of q, k and v are unpacked into f32 scratch, rows padded to 16 numbers, keys also transposed; RoPE
//          turns q and k on the way. All products are the one of lanes.inl: rows times vectors, sums in registers.
// Tiling:  48 queries x 128 keys; a tile of the product is kTileRows x kTileColumns vectors.
// Forward: softmax is online over blocks of keys (Milakov and Gimelshein, arXiv 1805.02867); causal blocks end where
//          the last of their queries sees no further. Scores are in base 2.
// Backward: probabilities are computed again (Dao et al., arXiv 2205.14135), from the highest score and the sum and not
//          from one logarithm of both, whose rounding would be in every probability of a row. A part owns all
//          queries of a sequence and key head, or for gradients of queries all keys, so that sums have one order: the
//          same, block by block, whether one part has both gradients or several have one each.
// Pairs:   where the instruction set multiplies pairs of bf16, in bf16 turned queries and keys, the probabilities and the
//          gradients of scores are rounded, and two products are added at once. Sums and all else stay f32.
// Bound:   multiply-add, of f32 or of pairs, for sequences above some 100 tokens, unpacking below.

constexpr float kLog2E = 1.44269504f;

// One row of head_dim numbers as f32, turned by its angles when there are any, zero up to padded_dim.
template <typename T>
FOVEATE_INLINE void unpack_row(const T* from, float* to, int64_t dim, const float* cos, const float* sin) {
  const int64_t padded = padded_dim(dim);
  int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) {
    store(to + d, load(from + d));
  }
  for (; d < dim; ++d) {
    to[d] = widen(from[d]);
  }
  for (; d < padded; ++d) {
    to[d] = 0;
  }
  if (cos == nullptr) {
    return;
  }
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float first = to[i], second = to[i + half];
    to[i] = first * cos[i] - second * sin[i];
    to[i + half] = second * cos[i] + first * sin[i];
  }
}

// The inverse for gradients: turned back by its angles and rounded. Overwrites `from`.
template <typename T>
FOVEATE_INLINE void pack_row(float* from, T* to, int64_t dim, const float* cos, const float* sin) {
  if (cos != nullptr) {
    const int64_t half = dim / 2;
    for (int64_t i = 0; i < half; ++i) {
      const float first = from[i], second = from[i + half];
      from[i] = first * cos[i] + second * sin[i];
      from[i + half] = second * cos[i] - first * sin[i];
    }
  }
  int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) {
    store(to + d, load(from + d));
  }
  for (; d < dim; ++d) {
    narrow(to + d, from[d]);
  }
}

template <typename T>
FOVEATE_INLINE T* row_of(const Rows& rows, int64_t token, int64_t head) {
  return static_cast<T*>(rows.data) + token * rows.token_stride + head * rows.head_stride;
}

FOVEATE_INLINE const float* angles_of(const float* table, int64_t token, int64_t head_dim) {
  return table == nullptr ? nullptr : table + token * (head_dim / 2);
}

// Into the second cache, before it is needed.
template <typename T>
FOVEATE_INLINE void fetch_row(const T* row, int64_t numbers) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t at = 0; at < numbers; at += kLine) {
    __builtin_prefetch(row + at, 0, 2);
  }
}

// Rows [count, padded_dim] of tokens first .. first + count. Tokens lie pages apart, so that nobody else fetches those of
// the next head ahead.
template <typename T>
static void unpack_rows(const AttentionProblem& problem, const Rows& rows, int64_t first, int64_t count, int64_t head,
                        bool turned, float* to) {
  const int64_t dim = problem.head_dim, padded = padded_dim(dim);
  for (int64_t i = 0; i < count; ++i) {
    const T* from = row_of<T>(rows, first + i, head);
    fetch_row(from + rows.head_stride, dim);
    unpack_row(from, to + i * padded, dim,
               turned ? angles_of(problem.cos, first + i, dim) : nullptr,
               turned ? angles_of(problem.sin, first + i, dim) : nullptr);
  }
}

template <typename T>
static void pack_rows(const AttentionProblem& problem, float* from, int64_t first, int64_t count, int64_t head,
                      bool turned, const Rows& rows) {
  const int64_t dim = problem.head_dim, padded = padded_dim(dim);
  for (int64_t i = 0; i < count; ++i) {
    pack_row(from + i * padded, row_of<T>(rows, first + i, head), dim,
             turned ? angles_of(problem.cos, first + i, dim) : nullptr,
             turned ? angles_of(problem.sin, first + i, dim) : nullptr);
  }
}

// Rows [count, padded_dim] to columns [padded_dim, kKeyRows]; columns up to a multiple of kLanes are zero.
FOVEATE_INLINE void transpose_rows(float* rows, int64_t count, int64_t padded, float* columns) {
  const int64_t squares = (count + kLanes - 1) / kLanes;
  for (int64_t i = count * padded; i < squares * kLanes * padded; ++i) {
    rows[i] = 0;
  }
  for (int64_t square = 0; square < squares; ++square) {
    for (int64_t d = 0; d < padded; d += kLanes) {
      transpose_square(rows + square * kLanes * padded + d, padded, columns + d * kKeyRows + square * kLanes, kKeyRows);
    }
  }
}

FOVEATE_INLINE int64_t smaller(int64_t one, int64_t other) {
  return one < other ? one : other;
}

FOVEATE_INLINE int64_t larger(int64_t one, int64_t other) {
  return one > other ? one : other;
}

FOVEATE_INLINE int64_t vectors(int64_t numbers) {
  return (numbers + kLanes - 1) / kLanes;
}

// Keys of a block of `count` keys that begins at `first_key` which a query sees.
FOVEATE_INLINE int64_t num_seen(bool causal, int64_t query, int64_t first_key, int64_t count) {
  if (!causal) {
    return count;
  }
  const int64_t seen = query + 1 - first_key;
  return seen < 0 ? 0 : smaller(seen, count);
}

// Beyond this, products of scores and scale are rounded to whole numbers and more: `score * scale - highest` in one rounding
// and `highest` in two then differ by more than an exponent holds.
constexpr float kVast = 0x1p23f;

// What is still to be multiplied to the scores of a row whose highest is given: all of the scale, but where they are vast.
static float scaled(float* line, int64_t width, float log2_scale, float highest) {
  if (highest <= kVast && highest >= -kVast) {
    return log2_scale;
  }
  for (int64_t i = 0; i < width; ++i) {
    store(line + i * kLanes, load(line + i * kLanes) * log2_scale);
  }
  return 1.0f;
}

struct Online {
  float* highest;  // score so far, per query
  float* total;    // of 2^(score - highest)
};

// Scores [rows, kKeyRows] become 2^(score * log2_scale - highest); sums and outputs so far are brought to the new highest score.
static void soften(const AttentionProblem& problem, float* scores, int64_t num_rows, int64_t first_query,
                   int64_t first_key, int64_t num_keys, Online online, float* out) {
  const int64_t width = vectors(num_keys), padded = padded_dim(problem.head_dim);
  const float log2_scale = problem.scale * kLog2E;
  constexpr float kNever = -__builtin_inff();
  for (int64_t row = 0; row < num_rows; ++row) {
    float* line = scores + row * kKeyRows;
    for (int64_t j = num_seen(problem.causal, first_query + row, first_key, num_keys); j < width * kLanes; ++j) {
      line[j] = kNever;
    }
    Vec best = load(line);
    for (int64_t i = 1; i < width; ++i) {
      const Vec other = load(line + i * kLanes);
      best = other > best ? other : best;
    }
    const float before = online.highest[row], here = largest(best) * log2_scale;
    const float highest = here > before ? here : before;
    const float factor = scaled(line, width, log2_scale, highest);
    Vec parts = {};
    for (int64_t i = 0; i < width; ++i) {
      const Vec power = exp2_of(FOVEATE_FUSED(spread(-highest), load(line + i * kLanes), spread(factor)));
      parts += power;
      store(line + i * kLanes, power);
    }
    if (highest != before) {
      const float shrink = before == kNever ? 0.0f : exp2_of(spread(before - highest))[0];
      online.total[row] *= shrink;
      for (int64_t d = 0; d < padded; d += kLanes) {
        store(out + row * padded + d, load(out + row * padded + d) * shrink);
      }
    }
    online.total[row] += folded(parts);
    online.highest[row] = highest;
  }
}

// Products of what is stored as T; f32 stays f32.
template <typename T>
using ProductOf = std::conditional_t<std::is_same_v<T, uint16_t>, Widest, Singles>;

template <typename T>
static void forward_part(const AttentionProblem& problem, const AttentionPart& part, float* scratch) {
  const int64_t dim = problem.head_dim, padded = padded_dim(dim), group = problem.num_heads / problem.num_kv_heads;
  const int64_t rows = part.query_end - part.query_begin, all = group * rows;
  float* queries = scratch;
  float* out = queries + all * padded;
  const Online online = {out + all * padded, out + all * padded + all};
  float* keys = online.total + all;
  float* keys_across = keys + kKeyRows * padded;
  float* values = keys_across + kKeyRows * padded;
  float* scores = values + kKeyRows * padded;
  const int64_t first_row = part.queries + part.query_begin;
  using Product = ProductOf<T>;
  for (int64_t member = 0; member < group; ++member) {
    unpack_rows<T>(problem, problem.q, first_row, rows, part.kv_head * group + member, true,
                   queries + member * rows * padded);
  }
  Product::along(queries, padded, all, padded, queries);
  for (int64_t i = 0; i < all * padded; ++i) {
    out[i] = 0;
  }
  for (int64_t i = 0; i < all; ++i) {
    online.highest[i] = -__builtin_inff();
    online.total[i] = 0;
  }
  const int64_t last_key = problem.causal ? part.query_end : part.length;
  for (int64_t key = 0; key < last_key; key += kKeyRows) {
    const int64_t num_keys = smaller(kKeyRows, part.length - key);
    unpack_rows<T>(problem, problem.k, part.start + key, num_keys, part.kv_head, true, keys);
    transpose_rows(keys, num_keys, padded, keys_across);
    Product::across(keys_across, kKeyRows, padded, vectors(num_keys) * kLanes, keys_across);
    unpack_rows<T>(problem, problem.v, part.start + key, num_keys, part.kv_head, false, values);
    Product::across(values, padded, num_keys, padded, values);
    for (int64_t member = 0; member < group; ++member) {
      for (int64_t begin = 0; begin < rows; begin += kQueryRows) {
        const int64_t count = smaller(kQueryRows, rows - begin), at = member * rows + begin;
        const int64_t seen = num_seen(problem.causal, part.query_begin + begin + count - 1, key, num_keys);
        if (seen == 0) {
          continue;
        }
        multiply<Product>({queries + at * padded, padded, 1}, keys_across, kKeyRows, scores, kKeyRows, count,
                          vectors(seen), Product::depth(dim), false);
        soften(problem, scores, count, part.query_begin + begin, key, seen,
               {online.highest + at, online.total + at}, out + at * padded);
        Product::along(scores, kKeyRows, count, vectors(seen) * kLanes, scores);
        multiply<Product>({scores, kKeyRows, 1}, values, padded, out + at * padded, padded, count, vectors(dim),
                          Product::depth(seen), true);
      }
    }
  }
  for (int64_t member = 0; member < group; ++member) {
    const int64_t head = part.kv_head * group + member;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = member * rows + i;
      const float inverse = 1.0f / online.total[at];
      for (int64_t d = 0; d < padded; d += kLanes) {
        store(out + at * padded + d, load(out + at * padded + d) * inverse);
      }
      problem.stats[head * problem.num_tokens + first_row + i] = online.highest[at];
      problem.stats[(problem.num_heads + head) * problem.num_tokens + first_row + i] = inverse;
    }
    pack_rows<T>(problem, out + member * rows * padded, first_row, rows, head, false, problem.out);
  }
}

// Products of gradients and outputs, summed over a head: what softmax's gradient subtracts. In f64, since what it is
// subtracted from is nearly the same where one key takes all attention.
template <typename T>
static void row_products(const AttentionProblem& problem, int64_t first, int64_t count, int64_t head, float* grads,
                         float* outs, float* products) {
  const int64_t padded = padded_dim(problem.head_dim);
  for (int64_t begin = 0; begin < count; begin += kQueryRows) {
    const int64_t rows = smaller(kQueryRows, count - begin);
    unpack_rows<T>(problem, problem.grad_out, first + begin, rows, head, false, grads);
    unpack_rows<T>(problem, problem.out, first + begin, rows, head, false, outs);
    for (int64_t i = 0; i < rows; ++i) {
      VecD total = {};
      for (int64_t d = 0; d < padded; d += kLanes) {
        total += __builtin_convertvector(load(grads + i * padded + d), VecD) *
                 __builtin_convertvector(load(outs + i * padded + d), VecD);
      }
      products[begin + i] = static_cast<float>(sum(total));
    }
  }
}

// Scores [rows, kKeyRows] become probabilities 2^(score * log2_scale - highest) * inverse, 0 for keys that are not seen.
static void probabilities(const AttentionProblem& problem, float* scores, int64_t num_rows, int64_t first_query,
                          int64_t first_key, int64_t num_keys, const float* highest,
                          const float* inverse) {
  const int64_t width = vectors(num_keys);
  const float log2_scale = problem.scale * kLog2E;
  for (int64_t row = 0; row < num_rows; ++row) {
    float* line = scores + row * kKeyRows;
    const float factor = scaled(line, width, log2_scale, highest[row]);
    for (int64_t i = 0; i < width; ++i) {
      const Vec power = FOVEATE_FUSED(spread(-highest[row]), load(line + i * kLanes), spread(factor));
      store(line + i * kLanes, exp2_of(power) * inverse[row]);
    }
    for (int64_t j = num_seen(problem.causal, first_query + row, first_key, num_keys); j < width * kLanes; ++j) {
      line[j] = 0;
    }
  }
}

// grad_scores = probabilities * (grad_probabilities - product of the row) * scale, in place of grad_probabilities.
static void score_gradients(const float* chances, float* grads, int64_t num_rows, int64_t num_keys,
                            const float* products, float scale) {
  for (int64_t row = 0; row < num_rows; ++row) {
    for (int64_t j = 0; j < vectors(num_keys) * kLanes; j += kLanes) {
      const int64_t at = row * kKeyRows + j;
      store(grads + at, load(chances + at) * (load(grads + at) - products[row]) * scale);
    }
  }
}

template <typename T>
static void backward_part(const AttentionProblem& problem, const AttentionPart& part, float* scratch) {
  const int64_t dim = problem.head_dim, padded = padded_dim(dim), group = problem.num_heads / problem.num_kv_heads;
  const int64_t rows = part.query_end - part.query_begin, block = kKeyRows * padded;
  const int64_t first_row = part.queries + part.query_begin;
  float* grad_q = scratch;
  float* products = grad_q + (part.of_queries ? group * rows * padded : 0);
  float* keys = products + group * rows;
  float *keys_across = keys + block, *values = keys + 2 * block, *values_across = keys + 3 * block;
  float *grad_k = keys + 4 * block, *grad_v = keys + 5 * block;
  float* queries = keys + 6 * block;
  float* grads = queries + kQueryRows * padded;
  float* chances = grads + kQueryRows * padded;
  float* grad_scores = chances + kQueryRows * kKeyRows;
  float* query_pairs = grad_scores + kQueryRows * kKeyRows;  // of rows; what is beside them in a row becomes pairs in place
  float* grad_pairs = query_pairs + kQueryRows * padded;
  float* block_pairs = grad_pairs + kQueryRows * padded;
  using Product = ProductOf<T>;
  for (float* zero = grad_q; zero < products; ++zero) {
    *zero = 0;
  }
  for (int64_t member = 0; member < group; ++member) {
    row_products<T>(problem, first_row, rows, part.kv_head * group + member, grads, queries,
                    products + member * rows);
  }
  for (int64_t key = part.key_begin; key < part.key_end; key += kKeyRows) {
    const int64_t num_keys = smaller(kKeyRows, part.length - key), all_keys = vectors(num_keys) * kLanes;
    unpack_rows<T>(problem, problem.k, part.start + key, num_keys, part.kv_head, true, keys);
    transpose_rows(keys, num_keys, padded, keys_across);
    Product::across(keys_across, kKeyRows, padded, all_keys, keys_across);
    Product::across(keys, padded, num_keys, padded, keys);
    unpack_rows<T>(problem, problem.v, part.start + key, num_keys, part.kv_head, false, values);
    transpose_rows(values, num_keys, padded, values_across);
    Product::across(values_across, kKeyRows, padded, all_keys, values_across);
    for (int64_t i = 0; i < 2 * block; ++i) {
      grad_k[i] = 0;  // and grad_v behind it
    }
    for (int64_t member = 0; member < group; ++member) {
      const int64_t head = part.kv_head * group + member;
      const float* highest = problem.stats + head * problem.num_tokens + first_row;
      const float* inverse = highest + problem.num_heads * problem.num_tokens;
      const int64_t first = problem.causal ? larger(0, key - part.query_begin) / kQueryRows * kQueryRows : 0;
      for (int64_t begin = first; begin < rows; begin += kQueryRows) {
        const int64_t count = smaller(kQueryRows, rows - begin);
        const int64_t seen = num_seen(problem.causal, part.query_begin + begin + count - 1, key, num_keys);
        const int64_t width = vectors(seen);
        unpack_rows<T>(problem, problem.q, first_row + begin, count, head, true, queries);
        unpack_rows<T>(problem, problem.grad_out, first_row + begin, count, head, false, grads);
        const float* rows_of_queries = Product::across(queries, padded, count, padded, query_pairs);
        const float* rows_of_grads = Product::across(grads, padded, count, padded, grad_pairs);
        Product::along(queries, padded, count, padded, queries);
        Product::along(grads, padded, count, padded, grads);
        multiply<Product>({queries, padded, 1}, keys_across, kKeyRows, chances, kKeyRows, count, width,
                          Product::depth(dim), false);
        probabilities(problem, chances, count, part.query_begin + begin, key, seen, highest + begin,
                      inverse + begin);
        if (part.of_keys) {
          const float* chance_rows = Product::across(chances, kKeyRows, count, width * kLanes, block_pairs);
          multiply<Product>({chance_rows, 1, kKeyRows}, rows_of_grads, padded, grad_v, padded, seen, vectors(dim),
                            Product::depth(count), true);
        }
        multiply<Product>({grads, padded, 1}, values_across, kKeyRows, grad_scores, kKeyRows, count, width,
                          Product::depth(dim), false);
        score_gradients(chances, grad_scores, count, seen, products + member * rows + begin, problem.scale);
        if (part.of_keys) {
          const float* score_rows = Product::across(grad_scores, kKeyRows, count, width * kLanes, block_pairs);
          multiply<Product>({score_rows, 1, kKeyRows}, rows_of_queries, padded, grad_k, padded, seen, vectors(dim),
                            Product::depth(count), true);
        }
        if (part.of_queries) {
          Product::along(grad_scores, kKeyRows, count, width * kLanes, grad_scores);
          multiply<Product>({grad_scores, kKeyRows, 1}, keys, padded, grad_q + (member * rows + begin) * padded, padded,
                            count, vectors(dim), Product::depth(seen), true);
        }
      }
    }
    if (part.of_keys) {
      pack_rows<T>(problem, grad_k, part.start + key, num_keys, part.kv_head, true, problem.grad_k);
      pack_rows<T>(problem, grad_v, part.start + key, num_keys, part.kv_head, false, problem.grad_v);
    }
  }
  for (int64_t member = 0; part.of_queries && member < group; ++member) {
    pack_rows<T>(problem, grad_q + member * rows * padded, first_row, rows, part.kv_head * group + member, true,
                 problem.grad_q);
  }
}

// Where products take less time than unpacking keys for them, more queries share what was unpacked.
constexpr int64_t kUnpackedFor = kHasTiles ? 4 * kChunkRows : kChunkRows;

static void attention_forward(const AttentionProblem& problem, const AttentionPart& part, float* scratch) {
  const TileWork tiles;
  problem.bf16 ? forward_part<uint16_t>(problem, part, scratch) : forward_part<float>(problem, part, scratch);
}

static void attention_backward(const AttentionProblem& problem, const AttentionPart& part, float* scratch) {
  const TileWork tiles;
  problem.bf16 ? backward_part<uint16_t>(problem, part, scratch) : backward_part<float>(problem, part, scratch);
}
