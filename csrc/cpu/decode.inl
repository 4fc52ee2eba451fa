// Kernels of attention over a cache for one new token of each sequence; to be included after attention.inl.
//
// Layout:  where many queries share a key head they lie across the lanes, so that highest scores and sums are kept lane
//          by lane; a block of keys times the queries, then the probabilities times the values, both by the product of
//          lanes.inl, or pairs of keys and queries are summed as they lie, then across. Few queries would leave lanes empty: each is multiplied with the keys as they lie in the cache,
//          and the partial sums of kLanes keys are turned so that keys lie across the lanes.
// Numbers: f32; softmax online over blocks, parts joined in their order. Bf16 is multiplied in pairs where the instruction
//          set has them: with keys as they lie, and with two values at once.
// Bound:   reading the cache once.

template <typename T>
static void unpack_cached(const Rows& rows, int64_t slot_stride, const DecodePart& part, int64_t key, int64_t count,
                          int64_t dim, float* to) {
  const T* from = row_of<T>(rows, key, part.kv_head) + part.slot * slot_stride;
  for (int64_t i = 0; i < count; ++i) {
    unpack_row(from + i * rows.token_stride, to + i * padded_dim(dim), dim, nullptr, nullptr);
  }
}

// Whether values are the first numbers of the keys, as in multi-head latent attention: they are unpacked once.
static bool values_in_keys(const DecodeProblem& problem) {
  return problem.v.data == problem.k.data && problem.v_slot == problem.k_slot &&
         problem.v.token_stride == problem.k.token_stride && problem.v.head_stride == problem.k.head_stride &&
         problem.value_dim <= problem.head_dim;
}

// Scores [count, lanes] times `scale` become 2^(score - highest); `shrink` is what earlier sums and results are
// multiplied by.
static void soften_lanes(float* scores, int64_t count, int64_t lanes, float scale, float* highest, float* total,
                         float* shrink) {
  for (int64_t at = 0; at < lanes; at += kLanes) {
    const Vec before = load(highest + at);
    Vec best = before, sums = {};
    for (int64_t key = 0; key < count; ++key) {
      const Vec score = load(scores + key * lanes + at) * scale;
      store(scores + key * lanes + at, score);
      best = score > best ? score : best;
    }
    for (int64_t key = 0; key < count; ++key) {
      const Vec power = exp2_of(load(scores + key * lanes + at) - best);
      sums += power;
      store(scores + key * lanes + at, power);
    }
    const Vec less = exp2_of(before - best);
    store(shrink + at, less);
    store(total + at, load(total + at) * less + sums);
    store(highest + at, best);
  }
}

// Queries [lanes] across.
template <typename T>
static void spread_queries(const DecodeProblem& problem, const DecodePart& part, int64_t group, int64_t lanes,
                           float* line, float* to) {
  for (int64_t i = 0; i < problem.head_dim * lanes; ++i) {
    to[i] = 0;
  }
  for (int64_t member = 0; member < group; ++member) {
    const T* query = row_of<T>(problem.q, part.sequence, part.kv_head * group + member);
    unpack_row(query, line, problem.head_dim, nullptr, nullptr);
    for (int64_t d = 0; d < problem.head_dim; ++d) {
      to[d * lanes + member] = line[d];
    }
  }
}

// Queries of bf16 as they lie, [lanes, dim / 2] words; zeros for those that are not there.
static void copy_queries(const DecodeProblem& problem, const DecodePart& part, int64_t group, int64_t lanes, float* to) {
  const int64_t words = problem.head_dim / 2;
  for (int64_t member = 0; member < group; ++member) {
    const uint16_t* query = row_of<uint16_t>(problem.q, part.sequence, part.kv_head * group + member);
    std::memcpy(to + member * words, query, sizeof(float) * words);
  }
  for (int64_t i = group * words; i < lanes * words; ++i) {
    to[i] = 0;
  }
}

// --- few queries ---

constexpr int64_t kFewQueries = 8;
constexpr int kSums = kLanes == 16 ? 16 : 8;                   // that fit the registers
constexpr int kScored = kSums / 2, kWeighed = kSums / 2;  // queries at once, each with two

static bool is_few(const DecodeProblem& problem) {
  const bool whole = padded_dim(problem.head_dim) == problem.head_dim && padded_dim(problem.value_dim) == problem.value_dim;
  return whole && problem.num_heads / problem.num_kv_heads <= kFewQueries;
}

// partial[member * partial_row] = products of one key with kMembers queries of `dim` numbers, lane by lane.
template <typename Product, typename T, int kMembers>
FOVEATE_INLINE void multiply_key(const T* key, const float* queries, int64_t dim, float* partial, int64_t partial_row) {
  const int64_t words = dim / Product::kNumbers;
  Vec even[kMembers] = {}, odd[kMembers] = {};
  int64_t d = 0;
  for (; d + 2 * kLanes <= words; d += 2 * kLanes) {
    const Vec one = load_words<Product>(key, d), other = load_words<Product>(key, d + kLanes);
    for (int member = 0; member < kMembers; ++member) {
      even[member] = Product::add(even[member], one, load(queries + member * dim + d));
      odd[member] = Product::add(odd[member], other, load(queries + member * dim + d + kLanes));
    }
  }
  if (d < words) {
    const Vec one = load_words<Product>(key, d);
    for (int member = 0; member < kMembers; ++member) {
      even[member] = Product::add(even[member], one, load(queries + member * dim + d));
    }
  }
  for (int member = 0; member < kMembers; ++member) {
    store(partial + member * partial_row, even[member] + odd[member]);
  }
}

// The same for a group of any size.
template <typename Product, typename T, int kMembers>
static void multiply_members(const T* key, const float* queries, int64_t dim, int64_t group, float* partial,
                             int64_t partial_row) {
  for (; group >= kMembers; group -= kMembers, queries += kMembers * dim, partial += kMembers * partial_row) {
    multiply_key<Product, T, kMembers>(key, queries, dim, partial, partial_row);
  }
  if constexpr (kMembers > 1) {
    if (group > 0) {
      multiply_members<Product, T, kMembers / 2>(key, queries, dim, group, partial, partial_row);
    }
  }
}

// scores[member * kDecodeKeys + i] in base 2 for `count` keys; those behind, up to whole vectors, are -inf.
template <typename Product, typename T>
static void score_keys(const DecodeProblem& problem, const DecodePart& part, int64_t first, int64_t count, int64_t group,
                       const float* queries, float* partial, float* scores) {
  const int64_t dim = problem.head_dim, square = kLanes * kLanes;
  const float log2_scale = problem.scale * kLog2E;
  const T* keys = row_of<T>(problem.k, first, part.kv_head) + part.slot * problem.k_slot;
  const T* values = row_of<T>(problem.v, first, part.kv_head) + part.slot * problem.v_slot;
  for (int64_t base = 0; base < count; base += kLanes) {
    const int64_t some = smaller(kLanes, count - base);
    for (int64_t i = 0; i < some; ++i) {
      const T* key = keys + (base + i) * problem.k.token_stride;
      fetch_row(values + (base + i) * problem.v.token_stride, problem.value_dim);
      fetch_row(key + kDecodeKeys * problem.k.token_stride, dim);
      multiply_members<Product, T, kScored>(key, queries, dim, group, partial + i * kLanes, square);
    }
    for (int64_t member = 0; member < group; ++member) {
      Vec rows[kLanes];
      for (int row = 0; row < kLanes; ++row) {
        rows[row] = row < some ? load(partial + member * square + row * kLanes) : Vec{};
      }
      float* to = scores + member * kDecodeKeys + base;
      store(to, sums_across(rows) * log2_scale);
      for (int64_t i = some; i < kLanes; ++i) {
        to[i] = -__builtin_inff();
      }
    }
  }
}

// One query's scores become 2^(score - highest); returns what its earlier sums and results are multiplied by.
static float soften(float* scores, int64_t count, float* highest, float* total) {
  Vec best = spread(*highest), sums = {};
  for (int64_t at = 0; at < count; at += kLanes) {
    const Vec score = load(scores + at);
    best = score > best ? score : best;
  }
  const float now = largest(best);
  for (int64_t at = 0; at < count; at += kLanes) {
    const Vec power = exp2_of(load(scores + at) - now);
    sums += power;
    store(scores + at, power);
  }
  const float less = exp2_of(spread(*highest - now))[0];
  *highest = now;
  *total = *total * less + folded(sums);
  return less;
}

// kColumns vectors of numbers of a value, or of pairs of them and those of the value behind it, which may be missing.
template <typename Product, int kColumns, typename T>
FOVEATE_INLINE void load_values(const T* values, [[maybe_unused]] int64_t stride, [[maybe_unused]] bool both,
                                Vec (&to)[kColumns]) {
  if constexpr (Product::kNumbers == 1) {
    for (int column = 0; column < kColumns; ++column) {
      to[column] = load(values + column * kLanes);
    }
  } else if constexpr (kColumns == 1) {
    const VecU first = reinterpret_cast<VecU>(load(values)) >> 16;
    to[0] = reinterpret_cast<Vec>(first | reinterpret_cast<VecU>(both ? load(values + stride) : Vec{}));
  } else {
    for (int column = 0; column < kColumns; column += 2) {
      const Vec first = load_words<Product>(values + column * kLanes, 0);
      const Vec second = both ? load_words<Product>(values + stride + column * kLanes, 0) : Vec{};
      to[column] = side_by_side<0, 0>(first, second);
      to[column + 1] = side_by_side<kLanes, kLanes>(first, second);
    }
  }
}

// to[member] = shrink[member] * to[member] + sum over keys of weight * value, kColumns vectors of each value.
template <typename Product, typename T, int kMembers, int kColumns>
FOVEATE_INLINE void weigh_columns(const T* values, int64_t stride, int64_t count, const float* weights,
                                  const float* shrink, float* to, int64_t width) {
  Vec sums[kMembers][kColumns] = {};
  for (int64_t i = 0; i < count; i += Product::kNumbers) {
    Vec lines[kColumns];
    load_values<Product>(values + i * stride, stride, i + 1 < count, lines);
    for (int member = 0; member < kMembers; ++member) {
      const float weight = weights[member * kDecodeKeys + i / Product::kNumbers];
      for (int column = 0; column < kColumns; ++column) {
        sums[member][column] = Product::add(sums[member][column], weight, lines[column]);
      }
    }
  }
  for (int member = 0; member < kMembers; ++member) {
    for (int column = 0; column < kColumns; ++column) {
      float* at = to + member * width + column * kLanes;
      store(at, load(at) * shrink[member] + sums[member][column]);
    }
  }
}

template <typename Product, typename T, int kMembers>
static void weigh_values(const T* values, int64_t stride, int64_t count, int64_t group, const float* weights,
                         const float* shrink, float* to, int64_t width) {
  for (; group >= kMembers; group -= kMembers, weights += kMembers * kDecodeKeys, shrink += kMembers) {
    int64_t d = 0;
    if constexpr (4 * kMembers <= kSums) {
      for (; d + 4 * kLanes <= width; d += 4 * kLanes) {
        weigh_columns<Product, T, kMembers, 4>(values + d, stride, count, weights, shrink, to + d, width);
      }
    }
    for (; d + 2 * kLanes <= width; d += 2 * kLanes) {
      weigh_columns<Product, T, kMembers, 2>(values + d, stride, count, weights, shrink, to + d, width);
    }
    for (; d < width; d += kLanes) {
      weigh_columns<Product, T, kMembers, 1>(values + d, stride, count, weights, shrink, to + d, width);
    }
    to += kMembers * width;
  }
  if constexpr (kMembers > 1) {
    if (group > 0) {
      weigh_values<Product, T, kMembers / 2>(values, stride, count, group, weights, shrink, to, width);
    }
  }
}

template <typename Product, typename T>
static void decode_few(const DecodeProblem& problem, const DecodePart& part, float* scratch) {
  const int64_t dim = problem.head_dim, width = problem.value_dim;
  const int64_t group = problem.num_heads / problem.num_kv_heads;
  float *queries = scratch, *scores = queries + group * dim, *partial = scores + group * kDecodeKeys;
  float *highest = part.result + group * width, *total = highest + padded_dim(group);
  float shrink[kFewQueries];
  for (int64_t member = 0; member < group; ++member) {
    const T* query = row_of<T>(problem.q, part.sequence, part.kv_head * group + member);
    unpack_row(query, queries + member * dim, dim, nullptr, nullptr);
    highest[member] = -__builtin_inff();
    total[member] = 0;
  }
  Product::along(queries, dim, group, dim, queries);
  for (int64_t i = 0; i < group * width; ++i) {
    part.result[i] = 0;
  }
  for (int64_t key = part.key_begin; key < part.key_end; key += kDecodeKeys) {
    const int64_t count = smaller(kDecodeKeys, part.key_end - key);
    score_keys<Product, T>(problem, part, key, count, group, queries, partial, scores);
    for (int64_t member = 0; member < group; ++member) {
      shrink[member] = soften(scores + member * kDecodeKeys, count, highest + member, total + member);
    }
    Product::along(scores, kDecodeKeys, group, vectors(count) * kLanes, scores);
    const T* values = row_of<T>(problem.v, key, part.kv_head) + part.slot * problem.v_slot;
    weigh_values<Product, T, kWeighed>(values, problem.v.token_stride, count, group, scores, shrink, part.result,
                                       width);
  }
}

// --- many queries ---

// Whether keys lie as pairs do, and values in whole vectors.
static bool is_paired(const DecodeProblem& problem) {
  const bool even = problem.head_dim % 2 == 0 && problem.k.token_stride % 2 == 0 && problem.k.head_stride % 2 == 0 &&
                    problem.k_slot % 2 == 0 && reinterpret_cast<uintptr_t>(problem.k.data) % sizeof(float) == 0;
  return Widest::kNumbers == 2 && problem.bf16 && even && padded_dim(problem.value_dim) == problem.value_dim;
}

// Keys of a block to be multiplied with queries: unpacked into `room`, or pairs as they lie.
template <typename Product, typename T>
static Factor keys_of(const DecodeProblem& problem, const DecodePart& part, int64_t key, int64_t count, float* room) {
  if constexpr (Product::kNumbers == 1) {
    unpack_cached<T>(problem.k, problem.k_slot, part, key, count, problem.head_dim, room);
    return {room, padded_dim(problem.head_dim), 1};
  } else {
    const T* keys = row_of<T>(problem.k, key, part.kv_head) + part.slot * problem.k_slot;
    return {reinterpret_cast<const float*>(keys), problem.k.token_stride / 2, 1};
  }
}

// Whether scores are sums across: of pairs that fill whole vectors, where there are no tiles.
template <typename Product>
static bool sums_across_words(int64_t dim) {
  return Product::kNumbers == 2 && !kHasTiles && dim % (2 * kLanes) == 0;
}

constexpr int kMembersAtOnce = 4, kKeysAtOnce = kLanes / kMembersAtOnce;  // whose sums fill one vector

// scores[key * lanes + m] = products of each key and four queries that follow each other, `words` apart: eight loads for
// sixteen products, where a number that is spread over the lanes is a load for each.
FOVEATE_INLINE void score_tile(const float* const* keys, const float* queries, int64_t words, float* scores,
                               int64_t lanes) {
  Vec sums[kLanes] = {};
  for (int64_t at = 0; at < words; at += kLanes) {
    Vec some[kMembersAtOnce];
    for (int m = 0; m < kMembersAtOnce; ++m) {
      some[m] = load(queries + m * words + at);
    }
    for (int key = 0; key < kKeysAtOnce; ++key) {
      const Vec one = load(keys[key] + at);
      for (int m = 0; m < kMembersAtOnce; ++m) {
        sums[key * kMembersAtOnce + m] = Widest::add(sums[key * kMembersAtOnce + m], one, some[m]);
      }
    }
  }
  float all[kLanes];
  store(all, sums_across(sums));
  for (int key = 0; key < kKeysAtOnce; ++key) {
    std::memcpy(scores + key * lanes, all + key * kMembersAtOnce, sizeof(float) * kMembersAtOnce);
  }
}

// Scores [count, lanes] of keys with queries [lanes, words], a few keys with all queries, while those of the block behind
// are fetched; the last tile begins earlier, its first keys come again.
static void score_block(const Factor& keys, int64_t count, const float* queries, int64_t words, float* scores,
                        int64_t lanes) {
  for (int64_t first = 0; first < count; first += kKeysAtOnce) {
    const int64_t begin = first + kKeysAtOnce <= count || count < kKeysAtOnce ? first : count - kKeysAtOnce;
    const float* some[kKeysAtOnce];
    for (int key = 0; key < kKeysAtOnce; ++key) {
      some[key] = keys.data + smaller(begin + key, count - 1) * keys.row;
      fetch_row(some[key] + kDecodeKeys * keys.row, words);
    }
    for (int64_t m = 0; m < lanes; m += kMembersAtOnce) {
      score_tile(some, queries + m * words, words, scores + begin * lanes + m, lanes);
    }
  }
}

template <typename Product, int kColumns, typename T>
FOVEATE_INLINE void pair_values(const T* values, int64_t stride, bool both, float* to) {
  Vec lines[kColumns];
  load_values<Product>(values, stride, both, lines);
  for (int column = 0; column < kColumns; ++column) {
    store(to + column * kLanes, lines[column]);
  }
}

// Values of a block, unpacked into `room`, or each number beside that of the value behind it.
template <typename Product, typename T>
static void values_of(const DecodeProblem& problem, const DecodePart& part, int64_t key, int64_t count, float* room) {
  if constexpr (Product::kNumbers == 1) {
    unpack_cached<T>(problem.v, problem.v_slot, part, key, count, problem.value_dim, room);
  } else {
    const int64_t width = problem.value_dim, stride = problem.v.token_stride;
    const T* values = row_of<T>(problem.v, key, part.kv_head) + part.slot * problem.v_slot;
    for (int64_t i = 0; i < count; i += 2) {
      float* to = room + i / 2 * width;
      int64_t d = 0;
      for (; d + 2 * kLanes <= width; d += 2 * kLanes) {
        pair_values<Product, 2>(values + i * stride + d, stride, i + 1 < count, to + d);
      }
      if (d < width) {
        pair_values<Product, 1>(values + i * stride + d, stride, i + 1 < count, to + d);
      }
    }
  }
}

template <typename Product, typename T>
static void decode_keys(const DecodeProblem& problem, const DecodePart& part, float* scratch) {
  const int64_t dim = problem.head_dim, padded = padded_dim(dim), width = padded_dim(problem.value_dim);
  const int64_t group = problem.num_heads / problem.num_kv_heads, lanes = padded_dim(group);
  const bool shared = Product::kNumbers == 1 && values_in_keys(problem);
  float* queries = scratch;
  float* scores = queries + dim * lanes;
  float* shrink = scores + kDecodeKeys * lanes;
  float* line = shrink + lanes;
  float* keys = line + padded;
  float* values = shared ? keys : keys + kDecodeKeys * padded;
  float* highest = part.result + group * width;
  float* total = highest + lanes;
  const bool across = sums_across_words<Product>(dim);
  if (across) {
    copy_queries(problem, part, group, lanes, queries);
  } else {
    spread_queries<T>(problem, part, group, lanes, line, queries);
    Product::across(queries, lanes, dim, lanes, queries);
  }
  for (int64_t i = 0; i < group * width; ++i) {
    part.result[i] = 0;
  }
  for (int64_t i = 0; i < lanes; ++i) {
    highest[i] = -__builtin_inff();
    total[i] = 0;
  }
  for (int64_t key = part.key_begin; key < part.key_end; key += kDecodeKeys) {
    const int64_t count = smaller(kDecodeKeys, part.key_end - key);
    const Factor factors = keys_of<Product, T>(problem, part, key, count, keys);
    if (across) {
      score_block(factors, count, queries, Product::depth(dim), scores, lanes);
    } else {
      multiply<Product>(factors, queries, lanes, scores, lanes, count, lanes / kLanes, Product::depth(dim), false);
    }
    soften_lanes(scores, count, lanes, problem.scale * kLog2E, highest, total, shrink);
    for (int64_t member = 0; member < group; ++member) {
      for (int64_t d = 0; d < width; d += kLanes) {
        store(part.result + member * width + d, load(part.result + member * width + d) * shrink[member]);
      }
    }
    if (!shared) {
      values_of<Product, T>(problem, part, key, count, values);
    }
    Product::across(scores, lanes, count, lanes, scores);
    multiply<Product>({scores, 1, lanes}, values, shared ? padded : width, part.result, width, group,
                      vectors(problem.value_dim), Product::depth(count), true);
  }
}

template <typename T>
static void join_parts(const DecodeProblem& problem, const DecodePart* parts, int64_t num_parts) {
  const int64_t width = padded_dim(problem.value_dim);
  const int64_t group = problem.num_heads / problem.num_kv_heads, lanes = padded_dim(group);
  for (int64_t member = 0; member < group; ++member) {
    float highest = -__builtin_inff();
    for (int64_t i = 0; i < num_parts; ++i) {
      const float here = parts[i].result[group * width + member];
      highest = here > highest ? here : highest;
    }
    float total = 0;
    T* out = row_of<T>(problem.out, parts[0].sequence, parts[0].kv_head * group + member);
    float* line = parts[0].result + member * width;  // the first part's own: it becomes the sum
    for (int64_t i = 0; i < num_parts; ++i) {
      const float* sums = parts[i].result + group * width + member;
      const float share = exp2_of(spread(sums[0] - highest))[0];
      total += sums[lanes] * share;
      for (int64_t d = 0; d < width; d += kLanes) {
        const Vec add = load(parts[i].result + member * width + d) * share;
        store(line + d, i == 0 ? add : load(line + d) + add);
      }
    }
    for (int64_t d = 0; d < width; d += kLanes) {
      store(line + d, load(line + d) / total);
    }
    pack_row(line, out, problem.value_dim, nullptr, nullptr);
  }
}

static void decode_part(const DecodeProblem& problem, const DecodePart& part, float* scratch) {
  const TileWork tiles;
  if (is_few(problem)) {
    if (problem.bf16 && problem.head_dim % (2 * kLanes) == 0) {
      return decode_few<Widest, uint16_t>(problem, part, scratch);
    }
    problem.bf16 ? decode_few<Singles, uint16_t>(problem, part, scratch)
                 : decode_few<Singles, float>(problem, part, scratch);
    return;
  }
  if (is_paired(problem)) {
    return decode_keys<Widest, uint16_t>(problem, part, scratch);
  }
  problem.bf16 ? decode_keys<Singles, uint16_t>(problem, part, scratch)
               : decode_keys<Singles, float>(problem, part, scratch);
}

static void decode_join(const DecodeProblem& problem, const DecodePart* parts, int64_t num_parts) {
  problem.bf16 ? join_parts<uint16_t>(problem, parts, num_parts) : join_parts<float>(problem, parts, num_parts);
}
