// Softmax, its logarithm, its loss, and layer normalisation: each row by a warp, or a long one by a block.
#include "common.cuh"

__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }
__device__ __forceinline__ float sqrt_of(float x) { return sqrtf(x); }
__device__ __forceinline__ double sqrt_of(double x) { return sqrt(x); }

// Who works on a row: a warp (of a block of several), or a block.
template <bool WARP> struct Team {
  __device__ static int rank() { return WARP ? threadIdx.x % 32 : threadIdx.x; }
  __device__ static int size() { return WARP ? 32 : blockDim.x; }
  __device__ static index_t row() {
    return WARP ? blockIdx.x * index_t(blockDim.x / 32) + threadIdx.x / 32 : index_t(blockIdx.x);
  }
  template <typename Op, typename W> __device__ static W reduce(W x, Op op) {
    return WARP ? warp_reduce(x, op) : block_reduce(x, op);
  }
};

// The numbers of a row that a thread works on, read once: ITEMS Packs of it. f gets a number and its column.
template <typename T, bool WARP, int ITEMS> struct Row {
  typedef wide_t<T> W;
  Pack<T> held[ITEMS];
  index_t packs;

  __device__ __forceinline__ Row(const T* x, index_t columns) : packs(columns / Pack<T>::SIZE) {
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
      const index_t k = place(i);
      if (k < packs) held[i] = reinterpret_cast<const Pack<T>*>(x)[k];
    }
  }

  __device__ static __forceinline__ index_t place(int i) { return Team<WARP>::rank() + index_t(i) * Team<WARP>::size(); }

  template <typename F> __device__ __forceinline__ void each(F f) const {
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
      const index_t k = place(i);
      if (k >= packs) continue;
#pragma unroll
      for (int e = 0; e < Pack<T>::SIZE; ++e) f(widen(held[i].at[e]), k * Pack<T>::SIZE + e);
    }
  }

  // y = f(number of this row, number of the other row, column)
  template <typename F> __device__ __forceinline__ void write(T* y, const Row& other, F f) const {
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
      const index_t k = place(i);
      if (k >= packs) continue;
      Pack<T> out;
#pragma unroll
      for (int e = 0; e < Pack<T>::SIZE; ++e) {
        out.at[e] = narrow<T>(f(widen(held[i].at[e]), widen(other.held[i].at[e]), k * Pack<T>::SIZE + e));
      }
      reinterpret_cast<Pack<T>*>(y)[k] = out;
    }
  }

  template <typename F> __device__ __forceinline__ void each(const Row& other, F f) const {
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
      const index_t k = place(i);
      if (k >= packs) continue;
#pragma unroll
      for (int e = 0; e < Pack<T>::SIZE; ++e) {
        f(widen(held[i].at[e]), widen(other.held[i].at[e]), k * Pack<T>::SIZE + e);
      }
    }
  }
};

// Rows that do not consist of whole Packs, or are too long to be held: read again for every pass.
template <typename T, bool WARP> struct Row<T, WARP, 0> {
  typedef wide_t<T> W;
  const T* x;
  index_t columns;

  __device__ __forceinline__ Row(const T* x, index_t columns) : x(x), columns(columns) {}

  template <typename F> __device__ __forceinline__ void each(F f) const {
    for (index_t j = Team<WARP>::rank(); j < columns; j += Team<WARP>::size()) f(widen(x[j]), j);
  }
  template <typename F> __device__ __forceinline__ void each(const Row& other, F f) const {
    for (index_t j = Team<WARP>::rank(); j < columns; j += Team<WARP>::size()) f(widen(x[j]), widen(other.x[j]), j);
  }
  template <typename F> __device__ __forceinline__ void write(T* y, const Row& other, F f) const {
    for (index_t j = Team<WARP>::rank(); j < columns; j += Team<WARP>::size()) {
      y[j] = narrow<T>(f(widen(x[j]), widen(other.x[j]), j));
    }
  }
};

template <bool WARP, typename R> __device__ __forceinline__ typename R::W row_max(const R& row) {
  typedef typename R::W W;
  W top = Max::start(W(0));
  row.each([&](W v, index_t) { top = nan_max(top, v); });
  return Team<WARP>::reduce(top, Max());
}

template <bool WARP, typename R> __device__ __forceinline__ typename R::W row_exp_sum(const R& row, typename R::W top) {
  typedef typename R::W W;
  W sum = W(0);
  row.each([&](W v, index_t) { sum += exp_of(v - top); });
  return Team<WARP>::reduce(sum, Sum());
}

// exp(x) / sum(exp(x)) of each row, or its logarithm.
template <typename T, bool LOG, bool WARP, int ITEMS>
__global__ void softmax(const T* x, T* y, index_t rows, index_t columns) {
  typedef wide_t<T> W;
  const index_t r = Team<WARP>::row();
  if (r >= rows) return;
  const Row<T, WARP, ITEMS> row(x + r * columns, columns);
  const W top = row_max<WARP>(row), sum = row_exp_sum<WARP>(row, top);
  const W log_sum = LOG ? log_of(sum) : W(0), share = W(1) / sum;
  row.write(y + r * columns, row, [&](W v, W, index_t) { return LOG ? v - top - log_sum : exp_of(v - top) * share; });
}

// y (g - sum(g y)) of each row, where y is its softmax, or, of its logarithm y, g - exp(y) sum(g).
template <typename T, bool LOG, bool WARP, int ITEMS>
__global__ void softmax_grad(const T* g, const T* y, T* gx, index_t rows, index_t columns) {
  typedef wide_t<T> W;
  const index_t r = Team<WARP>::row();
  if (r >= rows) return;
  const Row<T, WARP, ITEMS> slopes(g + r * columns, columns), row(y + r * columns, columns);
  W sum = W(0);
  slopes.each(row, [&](W slope, W v, index_t) { sum += LOG ? slope : slope * v; });
  sum = Team<WARP>::reduce(sum, Sum());
  slopes.write(gx + r * columns, row,
               [&](W slope, W v, index_t) { return LOG ? slope - exp_of(v) * sum : v * (slope - sum); });
}

// weight[r] (log(sum(exp(x))) - (1 - smoothing) x[target] - smoothing mean(x)), and the log of the sum, of each row.
template <typename T, bool WARP, int ITEMS>
__global__ void cross_entropy(const T* x, const long long* target, const wide_t<T>* weight, wide_t<T>* loss,
                              wide_t<T>* log_sums, index_t rows, index_t columns, wide_t<T> smoothing) {
  typedef wide_t<T> W;
  const index_t r = Team<WARP>::row();
  if (r >= rows) return;
  const Row<T, WARP, ITEMS> row(x + r * columns, columns);
  const W top = row_max<WARP>(row), log_sum = log_of(row_exp_sum<WARP>(row, top));
  W below = W(0);  // sum of x - top
  if (smoothing != W(0)) {
    row.each([&](W v, index_t) { below += v - top; });
    below = Team<WARP>::reduce(below, Sum());
  }
  if (Team<WARP>::rank() == 0) {
    W l = -(widen(x[r * columns + target[r]]) - top);
    if (smoothing != W(0)) l = l * (W(1) - smoothing) - below * (smoothing / W(columns));
    l += log_sum;
    loss[r] = weight ? l * weight[r] : l;
    log_sums[r] = log_sum + top;
  }
}

// g: of every row, or one for all of them (per_row 0).
template <typename T, bool WARP, int ITEMS>
__global__ void cross_entropy_grad(const wide_t<T>* g, int per_row, const T* x, const wide_t<T>* log_sums,
                                   const long long* target, const wide_t<T>* weight, T* gx, index_t rows,
                                   index_t columns, wide_t<T> smoothing) {
  typedef wide_t<T> W;
  const index_t r = Team<WARP>::row();
  if (r >= rows) return;
  const Row<T, WARP, ITEMS> row(x + r * columns, columns);
  const W each = g[per_row ? r : 0] * (weight ? weight[r] : W(1)), log_sum = log_sums[r];
  const W uniform = smoothing / W(columns);
  const index_t hit = target[r];
  row.write(gx + r * columns, row, [&](W v, W, index_t j) {
    const W d = exp_of(v - log_sum) - uniform;
    return each * (j == hit ? d - (W(1) - smoothing) : d);
  });
}

// (x - mean) / sqrt(var + eps) * weight + bias of each row; P is the type of weight and bias. Without CENTRED (RMS
// norm) the mean counts as 0.
template <typename T, typename P, bool CENTRED, bool WARP, int ITEMS>
__global__ void layer_norm(const T* x, const P* weight, const P* bias, T* y, wide_t<T>* means, wide_t<T>* scales,
                           index_t rows, index_t columns, wide_t<T> eps) {
  typedef wide_t<T> W;
  const index_t r = Team<WARP>::row();
  if (r >= rows) return;
  const Row<T, WARP, ITEMS> row(x + r * columns, columns);
  W mean = W(0), squares = W(0);
  if (CENTRED) {
    row.each([&](W v, index_t) { mean += v; });
    mean = Team<WARP>::reduce(mean, Sum()) / W(columns);
  }
  row.each([&](W v, index_t) { squares += (v - mean) * (v - mean); });
  const W scale = W(1) / sqrt_of(Team<WARP>::reduce(squares, Sum()) / W(columns) + eps);
  row.write(y + r * columns, row, [&](W v, W, index_t j) {
    W n = (v - mean) * scale;
    if (weight) n *= widen(weight[j]);
    if (bias) n += widen(bias[j]);
    return n;
  });
  if (Team<WARP>::rank() == 0) {
    means[r] = mean;
    scales[r] = scale;
  }
}

// With d = g weight and the normalised rows n: gx = scale (d - mean(d) - n mean(d n)), without mean(d) if not CENTRED.
template <typename T, typename P, bool CENTRED, bool WARP, int ITEMS>
__global__ void layer_norm_grad(const T* g, const T* x, const P* weight, const wide_t<T>* means,
                                const wide_t<T>* scales, T* gx, index_t rows, index_t columns) {
  typedef wide_t<T> W;
  const index_t r = Team<WARP>::row();
  if (r >= rows) return;
  const Row<T, WARP, ITEMS> of_g(g + r * columns, columns), of_x(x + r * columns, columns);
  const W mean = means[r], scale = scales[r];
  W sum = W(0), along = W(0);
  of_g.each(of_x, [&](W d, W v, index_t j) {
    if (weight) d *= widen(weight[j]);
    sum += d;
    along += d * ((v - mean) * scale);
  });
  sum = CENTRED ? Team<WARP>::reduce(sum, Sum()) / W(columns) : W(0);
  along = Team<WARP>::reduce(along, Sum()) / W(columns);
  of_g.write(gx + r * columns, of_x, [&](W d, W v, index_t j) {
    if (weight) d *= widen(weight[j]);
    return (d - sum - (v - mean) * scale * along) * scale;
  });
}
