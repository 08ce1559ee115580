// Attention of two-byte floats on tensor cores, tile by tile, so that the weights are never in memory, forward or
// backward. After Dao, FlashAttention-2, arXiv:2307.08691; but keys' and queries' gradients are kernels of their own,
// each of which makes the weights again: sums have one order, and nothing is added atomically.
//
// A warp multiplies 16 x 16 by 16 x 8 numbers at a time. Of its lanes, `line` is the row of the first matrix (and
// 8 more) and the column of the second that a lane has, `pair` the first of two neighbours along the other direction.
#include "common.cuh"

#define WARPS 4
#define TILE 64  // keys or queries that lie in shared memory at a time

// sum += a b; sum: 16 x 8, a: 16 x 16, b: 16 x 8, in the layout of PTX's mma.m16n8k16.
#ifdef DTRAIN_CPU
template <typename T> void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b, unsigned below) {
  emulator::multiply_add<T>(EMULATOR_HERE, sum, a, b, below);
}
#else
template <typename T>
__device__ __forceinline__ void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b, unsigned below);
#define MULTIPLY_ADD(T, name)                                                                                     \
  template <>                                                                                                     \
  __device__ __forceinline__ void multiply_add<T>(float (&sum)[4], const unsigned (&a)[4], unsigned b, unsigned below) { \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 "                                   \
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(below));                               \
  }
MULTIPLY_ADD(__nv_bfloat16, "bf16")
MULTIPLY_ADD(__half, "f16")
#endif

template <typename T> struct __align__(4) Two {
  T first, second;
};

template <typename T> __device__ __forceinline__ unsigned bits(Two<T> x) { return *reinterpret_cast<unsigned*>(&x); }
template <typename T> __device__ __forceinline__ unsigned rounded(float x, float y) {
  return bits(Two<T>{narrow<T>(x), narrow<T>(y)});
}
template <typename T> __device__ __forceinline__ unsigned two_at(const T* x) {
  return *reinterpret_cast<const unsigned*>(x);
}

// Rows of one head, of n: (batch, head, n, D), where each of a row's numbers follows the one before.
template <typename T> struct Rows {
  T* at;
  index_t step;
  __device__ Rows(T* x, index_t batch_step, index_t head_step, index_t step, int batch, int head)
      : at(x + batch * batch_step + head * head_step), step(step) {}
  __device__ __forceinline__ T* row(int i) const { return at + i * step; }
};
#define ROWS_OF(T, x) T *x, index_t x##_batch, index_t x##_head, index_t x##_step
#define ROWS(T, x) const Rows<T> x##_rows(x, x##_batch, x##_head, x##_step, pair_of / heads, pair_of % heads)

// 16 rows as the first matrix, of all D columns. Rows from n on are 0.
template <typename T, int D> struct First {
  unsigned at[D / 16][4];
  __device__ __forceinline__ void read(const Rows<const T>& x, int row, int n, int pair) {
#pragma unroll
    for (int k = 0; k < D / 16; ++k)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = row + e % 2 * 8;
        at[k][e] = r < n ? two_at(x.row(r) + 16 * k + e / 2 * 8 + pair) : 0;
      }
  }
};

// TILE rows in shared memory, with room between them, so that the lanes of a warp read from different banks.
template <typename T, int D> struct Tile {
  static constexpr int STEP = D + 8;
  T* at;
  // All threads of the block call. Rows from n on are 0.
  __device__ __forceinline__ void read(const Rows<const T>& x, int start, int n) const {
    typedef Pack<T> P;
    for (int i = threadIdx.x; i < TILE * D / P::SIZE; i += 32 * WARPS) {
      const int row = i / (D / P::SIZE), column = i % (D / P::SIZE) * P::SIZE;
      P few;
      if (start + row < n) {
        few = *reinterpret_cast<const P*>(x.row(start + row) + column);
      } else {
#pragma unroll
        for (int e = 0; e < P::SIZE; ++e) few.at[e] = narrow<T>(0.0f);
      }
      *reinterpret_cast<P*>(at + row * STEP + column) = few;
    }
  }
  // As the second matrix: two neighbours of a row, where rows are the columns of the product.
  __device__ __forceinline__ unsigned along(int row, int column) const { return two_at(at + row * STEP + column); }
  // Two neighbours of a column, where rows are what is summed over.
  __device__ __forceinline__ unsigned across(int row, int column) const {
    return bits(Two<T>{at[row * STEP + column], at[(row + 1) * STEP + column]});
  }
};

// What some attention has: a bias (batch, head, query, key), in steps, and which weights dropout keeps, all in one piece.
template <typename T> struct More {
  const T* bias;
  index_t query_step, key_step;
  const bool* kept;
  float kept_scale;
  int keys;
  __device__ More(const T* bias, index_t batch_step, index_t head_step, index_t query_step, index_t key_step,
                  const bool* kept, float kept_scale, int batch, int head, int heads, int queries, int keys)
      : bias(bias ? bias + batch * batch_step + head * head_step : bias), query_step(query_step), key_step(key_step),
        kept(kept ? kept + (index_t(batch) * heads + head) * queries * keys : kept), kept_scale(kept_scale), keys(keys) {}
  __device__ __forceinline__ float added(int query, int key) const {
    return bias ? widen(bias[query * query_step + key * key_step]) : 0.0f;
  }
  __device__ __forceinline__ float factor(int query, int key) const {
    return !kept ? 1.0f : kept[index_t(query) * keys + key] ? kept_scale : 0.0f;
  }
};
#define MORE_OF(T)                                                                                                     \
  const T *bias, index_t bias_batch, index_t bias_head, index_t bias_query, index_t bias_key, const bool *kept, \
      float kept_scale
#define MORE(queries, keys)                                                                                       \
  const More<T> more(bias, bias_batch, bias_head, bias_query, bias_key, kept, kept_scale, pair_of / heads, \
                     pair_of % heads, heads, queries, keys)

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

// y = softmax(scale q k^T + bias) v, where MORE without what dropout leaves out, log_sums the logarithms of the sums of exponentials; 0 and 0 where a query sees no key.
// A block has PARTS times 64 queries of a head, each warp PARTS times 16.
template <typename T, int D, int PARTS, bool IS_MORE>
__global__ void __launch_bounds__(32 * WARPS)
    attention(ROWS_OF(const T, q), ROWS_OF(const T, k), ROWS_OF(const T, v), ROWS_OF(T, y), float* log_sums, int heads,
              int queries, int keys, int causal, float scale, MORE_OF(T)) {
  __shared__ __align__(16) T room[2 * TILE * Tile<T, D>::STEP];
  const Tile<T, D> k_tile{room}, v_tile{room + TILE * Tile<T, D>::STEP};
  const int lane = threadIdx.x % 32, line = lane / 4, pair = lane % 4 * 2;
  const int size = 16 * WARPS * PARTS, blocks = (queries + size - 1) / size;
  const int pair_of = blockIdx.x / blocks, first = blockIdx.x % blocks * size;
  const int row = first + threadIdx.x / 32 * 16 * PARTS + line;
  ROWS(const T, q);
  ROWS(const T, k);
  ROWS(const T, v);
  ROWS(T, y);
  MORE(queries, keys);
  First<T, D> own[PARTS];
#pragma unroll
  for (int m = 0; m < PARTS; ++m) own[m].read(q_rows, row + 16 * m, queries, pair);
  float out[PARTS][D / 8][4] = {}, top[PARTS][2], sum[PARTS][2] = {};
#pragma unroll
  for (int m = 0; m < PARTS; ++m) top[m][0] = top[m][1] = -infinity_of(scale);

  const int end = causal ? min(keys, first + size) : keys;
  for (int start = 0; start < end; start += TILE) {
    __syncthreads();
    k_tile.read(k_rows, start, keys);
    v_tile.read(v_rows, start, keys);
    __syncthreads();
    float weights[PARTS][TILE / 8][4] = {};
#pragma unroll
    for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
      for (int i = 0; i < D / 16; ++i) {
        const unsigned b = k_tile.along(8 * j + line, 16 * i + pair);
        const unsigned below = k_tile.along(8 * j + line, 16 * i + 8 + pair);
#pragma unroll
        for (int m = 0; m < PARTS; ++m) multiply_add<T>(weights[m][j], own[m].at[i], b, below);
      }
#pragma unroll
    for (int m = 0; m < PARTS; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int query = row + 16 * m + 8 * half;
        float best = top[m][half];
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            const int key = start + 8 * j + pair + e % 2;
            const bool seen = key < keys && !(causal && key > query);
            weights[m][j][e] = seen ? weights[m][j][e] * (scale * LOG2_E) : -infinity_of(scale);
            if (IS_MORE && seen && query < queries) weights[m][j][e] += more.added(query, key) * LOG2_E;
            best = fmaxf(best, weights[m][j][e]);
          }
        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
        const float base = best == -infinity_of(scale) ? 0.0f : best;
        const float factor = exp2f(top[m][half] - base);
        top[m][half] = best;
        sum[m][half] *= factor;
#pragma unroll
        for (int j = 0; j < D / 8; ++j) out[m][j][2 * half] *= factor, out[m][j][2 * half + 1] *= factor;
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            weights[m][j][e] = exp2f(weights[m][j][e] - base);
            sum[m][half] += weights[m][j][e];
            const int key = start + 8 * j + pair + e % 2;
            if (IS_MORE && key < keys && query < queries) weights[m][j][e] *= more.factor(query, key);
          }
      }
#pragma unroll
    for (int i = 0; i < TILE / 16; ++i) {
      unsigned a[PARTS][4];
#pragma unroll
      for (int m = 0; m < PARTS; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float(&w)[4] = weights[m][2 * i + e / 2];
          a[m][e] = rounded<T>(w[e % 2 * 2], w[e % 2 * 2 + 1]);
        }
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        const unsigned b = v_tile.across(16 * i + pair, 8 * j + line);
        const unsigned below = v_tile.across(16 * i + 8 + pair, 8 * j + line);
#pragma unroll
        for (int m = 0; m < PARTS; ++m) multiply_add<T>(out[m][j], a[m], b, below);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < PARTS; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[m][half];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const int query = row + 16 * m + 8 * half;
      if (query >= queries) continue;
      const float factor = total == 0.0f ? 0.0f : 1.0f / total;
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        *reinterpret_cast<unsigned*>(y_rows.row(query) + 8 * j + pair) =
            rounded<T>(out[m][j][2 * half] * factor, out[m][j][2 * half + 1] * factor);
      }
      if (pair == 0) {
        log_sums[index_t(pair_of) * queries + query] = total == 0.0f ? 0.0f : top[m][half] * LN_2 + logf(total);
      }
    }
}

// along = sum of g y over each row: a warp's work.
template <typename T>
__global__ void attention_along(ROWS_OF(const T, g), ROWS_OF(const T, y), float* along, int heads, int queries, int columns,
                                index_t rows) {
  const index_t i = index_t(blockIdx.x) * WARPS + threadIdx.x / 32;
  if (i >= rows) return;
  const int pair_of = i / queries, query = i % queries;
  ROWS(const T, g);
  ROWS(const T, y);
  float sum = 0;
  for (int c = threadIdx.x % 32; c < columns; c += 32) sum += widen(g_rows.row(query)[c]) * widen(y_rows.row(query)[c]);
  sum = warp_reduce(sum, Sum());
  if (threadIdx.x % 32 == 0) along[i] = sum;
}

// OF_KEYS: from own (a, b) = (k, v) and others (x, z) = (q, g) the gradients of keys (ga) and values (gb).
// Else from own (q, g) and others (k, v) that of queries (ga). With weights p = exp(scale q k^T + bias - log_sums) and
// factors f of dropout
//   s = p (f g v^T - along),  gq = scale s k,  gk = scale s^T q,  gv = (f p)^T g
// A block has 64 of its own rows, each warp 16, and goes through all others.
template <typename T, int D, bool OF_KEYS, bool IS_MORE>
__global__ void __launch_bounds__(32 * WARPS)
    attention_grad(ROWS_OF(const T, a), ROWS_OF(const T, b), ROWS_OF(const T, x), ROWS_OF(const T, z), ROWS_OF(T, ga),
                   ROWS_OF(T, gb), const float* log_sums, const float* along, int heads, int owned, int others, int causal,
                   float scale, MORE_OF(T)) {
  __shared__ __align__(16) T room[2 * TILE * Tile<T, D>::STEP];
  const Tile<T, D> x_tile{room}, z_tile{room + TILE * Tile<T, D>::STEP};
  const int lane = threadIdx.x % 32, line = lane / 4, pair = lane % 4 * 2;
  const int size = 16 * WARPS, blocks = (owned + size - 1) / size;
  const int pair_of = blockIdx.x / blocks, first = blockIdx.x % blocks * size;
  const int row = first + threadIdx.x / 32 * 16 + line;
  ROWS(const T, a);
  ROWS(const T, b);
  ROWS(const T, x);
  ROWS(const T, z);
  ROWS(T, ga);
  ROWS(T, gb);
  MORE(OF_KEYS ? others : owned, OF_KEYS ? owned : others);
  log_sums += index_t(pair_of) * (OF_KEYS ? others : owned);
  along += index_t(pair_of) * (OF_KEYS ? others : owned);
  First<T, D> own_a, own_b;
  own_a.read(a_rows, row, owned, pair);
  own_b.read(b_rows, row, owned, pair);
  float sum_a[D / 8][4] = {}, sum_b[OF_KEYS ? D / 8 : 1][4] = {};

  const int end = causal && !OF_KEYS ? min(others, first + size) : others;
  for (int start = causal && OF_KEYS ? first : 0; start < end; start += TILE) {
    __syncthreads();
    x_tile.read(x_rows, start, others);
    z_tile.read(z_rows, start, others);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TILE / 16; ++i) {
      unsigned weights[4], slopes[4];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int other = 16 * i + 8 * j;
        float scores[4] = {}, products[4] = {};
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
          multiply_add<T>(scores, own_a.at[n], x_tile.along(other + line, 16 * n + pair),
                          x_tile.along(other + line, 16 * n + 8 + pair));
          multiply_add<T>(products, own_b.at[n], z_tile.along(other + line, 16 * n + pair),
                          z_tile.along(other + line, 16 * n + 8 + pair));
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int mine = row + e / 2 * 8, theirs = start + other + pair + e % 2;
          const int query = OF_KEYS ? theirs : mine, key = OF_KEYS ? mine : theirs;
          const bool seen = mine < owned && theirs < others && !(causal && key > query);
          float score = scores[e] * scale, factor = 1;
          if (IS_MORE && seen) score += more.added(query, key), factor = more.factor(query, key);
          const float w = seen ? exp2f((score - log_sums[query]) * LOG2_E) : 0.0f;
          scores[e] = w * factor;
          products[e] = seen ? w * (products[e] * factor - along[query]) : 0.0f;
        }
        weights[2 * j] = rounded<T>(scores[0], scores[1]);
        weights[2 * j + 1] = rounded<T>(scores[2], scores[3]);
        slopes[2 * j] = rounded<T>(products[0], products[1]);
        slopes[2 * j + 1] = rounded<T>(products[2], products[3]);
      }
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        multiply_add<T>(sum_a[j], slopes, x_tile.across(16 * i + pair, 8 * j + line),
                        x_tile.across(16 * i + 8 + pair, 8 * j + line));
        if (OF_KEYS) {
          multiply_add<T>(sum_b[OF_KEYS ? j : 0], weights, z_tile.across(16 * i + pair, 8 * j + line),
                          z_tile.across(16 * i + 8 + pair, 8 * j + line));
        }
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int mine = row + 8 * half;
    if (mine >= owned) continue;
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      *reinterpret_cast<unsigned*>(ga_rows.row(mine) + 8 * j + pair) =
          rounded<T>(sum_a[j][2 * half] * scale, sum_a[j][2 * half + 1] * scale);
      if (OF_KEYS) {
        *reinterpret_cast<unsigned*>(gb_rows.row(mine) + 8 * j + pair) =
            rounded<T>(sum_b[OF_KEYS ? j : 0][2 * half], sum_b[OF_KEYS ? j : 0][2 * half + 1]);
      }
    }
  }
}
