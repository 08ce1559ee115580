// Sums over the rows of matrices (R, C), and normalisation of their columns: batch norm, where columns are channels.
#include "common.cuh"

// What is added up. a and b are numbers of two matrices; mean and scale belong to the column, or to the row (BY_ROW).
struct Sums {
  static constexpr int COUNT = 1;
  static constexpr bool TWO = false, BY_ROW = false, SHIFTED = false;
  template <typename W> __device__ static void add(W* sums, W a, W, W, W) { sums[0] += a; }
};
struct Moments {  // a less a number near to it, so that no digits are lost; finish_moments makes mean and variance
  static constexpr int COUNT = 2;
  static constexpr bool TWO = false, BY_ROW = false, SHIFTED = true;
  template <typename W> __device__ static void add(W* sums, W a, W, W shift, W) {
    const W d = a - shift;
    sums[0] += d;
    sums[1] += d * d;
  }
};
struct BatchNormSums {  // of the gradient, and of it times the normalised b
  static constexpr int COUNT = 2;
  static constexpr bool TWO = true, BY_ROW = false, SHIFTED = false;
  template <typename W> __device__ static void add(W* sums, W a, W b, W mean, W scale) {
    sums[0] += a;
    sums[1] += a * ((b - mean) * scale);
  }
};
struct LayerNormSums : BatchNormSums {
  static constexpr bool BY_ROW = true;
};

// parts (COUNT, chunks, C): the sums over the rows of each chunk, of `chunk` rows. A block has 256 threads: x of them
// lie along columns, y along rows; those of a column are added up in their order.
template <typename T, typename F, bool WHOLE>
__global__ void column_parts(const T* a, const T* b, const wide_t<T>* mean, const wide_t<T>* scale, wide_t<T>* parts,
                             index_t rows, index_t columns, index_t chunk) {
  typedef wide_t<T> W;
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  __shared__ W room[256 * SIZE];
  const index_t j = (blockIdx.x * index_t(blockDim.x) + threadIdx.x) * SIZE, first = blockIdx.y * chunk;
  const index_t end = first + chunk < rows ? first + chunk : rows;
  const bool inside = j < columns;
  W sums[F::COUNT][SIZE], of_mean[SIZE], of_scale[SIZE];
  Few<T, WHOLE> u, v;
#pragma unroll
  for (int e = 0; e < SIZE; ++e) {
    for (int k = 0; k < F::COUNT; ++k) sums[k][e] = W(0);
    of_mean[e] = of_scale[e] = W(0);
    if (inside && F::TWO && !F::BY_ROW) {
      of_mean[e] = mean[j + e];
      of_scale[e] = scale[j + e];
    }
    if (inside && F::SHIFTED) of_mean[e] = widen(a[first * columns + j + e]);
  }
  for (index_t r = first + threadIdx.y; inside && r < end; r += blockDim.y) {
    u.read(a + r * columns + j);
    if (F::TWO) v.read(b + r * columns + j);
#pragma unroll
    for (int e = 0; e < SIZE; ++e) {
      W one[F::COUNT];
      for (int k = 0; k < F::COUNT; ++k) one[k] = sums[k][e];
      F::add(one, widen(u.at[e]), F::TWO ? widen(v.at[e]) : W(0), F::BY_ROW ? mean[r] : of_mean[e],
             F::BY_ROW ? scale[r] : of_scale[e]);
      for (int k = 0; k < F::COUNT; ++k) sums[k][e] = one[k];
    }
  }
  for (int k = 0; k < F::COUNT; ++k) {
    __syncthreads();  // room may still be read, from the sum before
#pragma unroll
    for (int e = 0; e < SIZE; ++e) room[(threadIdx.y * blockDim.x + threadIdx.x) * SIZE + e] = sums[k][e];
    __syncthreads();
    if (threadIdx.y == 0) {
#pragma unroll
      for (int e = 0; e < SIZE; ++e) {
        W sum = W(0);
        for (int y = 0; y < blockDim.y; ++y) sum += room[(y * blockDim.x + threadIdx.x) * SIZE + e];
        sums[k][e] = sum;
      }
    }
  }
  if (threadIdx.y != 0 || !inside) return;
  const W n = W(end - first);
#pragma unroll
  for (int e = 0; e < SIZE; ++e) {
    if (F::SHIFTED) {  // of the chunk: the mean, and the sum of squares of what is left
      const W mean_of_shifted = sums[0][e] / n;
      sums[1][e] -= sums[0][e] * mean_of_shifted;
      sums[0][e] = of_mean[e] + mean_of_shifted;
    }
    for (int k = 0; k < F::COUNT; ++k) parts[(k * index_t(gridDim.y) + blockIdx.y) * columns + j + e] = sums[k][e];
  }
}

// out (C,) = the sum of parts (chunks, C); a warp to a column.
template <typename W> __global__ void finish_sums(const W* parts, W* out, index_t chunks, index_t columns) {
  const index_t j = blockIdx.x * index_t(blockDim.x / 32) + threadIdx.x / 32;
  if (j >= columns) return;
  W sum = W(0);
  for (index_t k = threadIdx.x % 32; k < chunks; k += 32) sum += parts[k * columns + j];
  sum = warp_reduce(sum, Sum());
  if (threadIdx.x % 32 == 0) out[j] = sum;
}

// The means and sums of squares of chunks (2, chunks, C) become those of all rows (Chan, Golub and LeVeque, 1979):
// mean, sum of squares / `divisor`, and 1 / sqrt(that + eps), (C,) each.
template <typename W>
__global__ void finish_moments(const W* parts, W* mean, W* var, W* scale, index_t chunks, index_t columns, index_t rows,
                               index_t chunk, W divisor, W eps) {
  const index_t j = blockIdx.x * index_t(blockDim.x / 32) + threadIdx.x / 32;
  if (j >= columns) return;
  const W* squares = parts + chunks * columns;
  W sum = W(0);
  for (index_t k = threadIdx.x % 32; k < chunks; k += 32) {
    const index_t n = k + 1 < chunks ? chunk : rows - k * chunk;
    sum += W(n) * parts[k * columns + j];
  }
  const W of_all = warp_reduce(sum, Sum()) / W(rows);
  sum = W(0);
  for (index_t k = threadIdx.x % 32; k < chunks; k += 32) {
    const index_t n = k + 1 < chunks ? chunk : rows - k * chunk;
    const W d = parts[k * columns + j] - of_all;
    sum += squares[k * columns + j] + W(n) * d * d;
  }
  sum = warp_reduce(sum, Sum()) / divisor;
  if (threadIdx.x % 32 == 0) {
    mean[j] = of_all;
    var[j] = sum;
    scale[j] = W(1) / sqrt(sum + eps);
  }
}

// y = (x - mean) scale weight + bias, per column; P is the type of weight and bias, which may be missing.
template <typename T, typename P, bool WHOLE>
__global__ void batch_norm(const T* x, const wide_t<T>* mean, const wide_t<T>* scale, const P* weight, const P* bias,
                           T* y, index_t rows, index_t columns) {
  typedef wide_t<T> W;
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  const index_t j = (blockIdx.x * index_t(blockDim.x) + threadIdx.x) * SIZE;
  if (j >= columns) return;
  W of_mean[SIZE], factor[SIZE], shift[SIZE];
#pragma unroll
  for (int e = 0; e < SIZE; ++e) {
    of_mean[e] = mean[j + e];
    factor[e] = scale[j + e];
    if (weight) factor[e] *= widen(weight[j + e]);
    shift[e] = bias ? widen(bias[j + e]) : W(0);
  }
  const index_t step = index_t(gridDim.y) * blockDim.y;
  for (index_t r = blockIdx.y * index_t(blockDim.y) + threadIdx.y; r < rows; r += step) {
    Few<T, WHOLE> u;
    u.read(x + r * columns + j);
#pragma unroll
    for (int e = 0; e < SIZE; ++e) u.at[e] = narrow<T>((widen(u.at[e]) - of_mean[e]) * factor[e] + shift[e]);
    u.write(y + r * columns + j);
  }
}

// gx = (g - share (of_g + n of_gn)) scale weight with n = (x - mean) scale, of_g and of_gn the sums of g and of g n,
// and share = 1 / the number of values; 0 where mean and scale are not made of x.
template <typename T, typename P, bool WHOLE>
__global__ void batch_norm_grad(const T* g, const T* x, const wide_t<T>* mean, const wide_t<T>* scale, const P* weight,
                                const wide_t<T>* of_g, const wide_t<T>* of_gn, T* gx, index_t rows, index_t columns,
                                wide_t<T> share) {
  typedef wide_t<T> W;
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  const index_t j = (blockIdx.x * index_t(blockDim.x) + threadIdx.x) * SIZE;
  if (j >= columns) return;
  W of_mean[SIZE], factor[SIZE], less[SIZE], along[SIZE];
#pragma unroll
  for (int e = 0; e < SIZE; ++e) {
    of_mean[e] = mean[j + e];
    factor[e] = scale[j + e];
    less[e] = share != W(0) ? share * of_g[j + e] : W(0);
    along[e] = share != W(0) ? share * of_gn[j + e] * factor[e] : W(0);
    if (weight) factor[e] *= widen(weight[j + e]);
  }
  const index_t step = index_t(gridDim.y) * blockDim.y;
  for (index_t r = blockIdx.y * index_t(blockDim.y) + threadIdx.y; r < rows; r += step) {
    Few<T, WHOLE> u, v;
    u.read(g + r * columns + j);
    v.read(x + r * columns + j);
#pragma unroll
    for (int e = 0; e < SIZE; ++e) {
      u.at[e] = narrow<T>((widen(u.at[e]) - less[e] - (widen(v.at[e]) - of_mean[e]) * along[e]) * factor[e]);
    }
    u.write(gx + r * columns + j);
  }
}

// parts (blocks,): the sum of the squares of what each block strides over. packs: as of `unary` in elementwise.cu.
template <typename T> __global__ void square_parts(const T* x, wide_t<T>* parts, index_t n, index_t packs) {
  typedef wide_t<T> W;
  const index_t first = blockIdx.x * index_t(blockDim.x) + threadIdx.x, step = index_t(gridDim.x) * blockDim.x;
  W sum = W(0);
  for (index_t i = first; i < packs; i += step) {
    const Pack<T> in = reinterpret_cast<const Pack<T>*>(x)[i];
#pragma unroll
    for (int k = 0; k < Pack<T>::SIZE; ++k) sum += widen(in.at[k]) * widen(in.at[k]);
  }
  for (index_t i = packs * Pack<T>::SIZE + first; i < n; i += step) sum += widen(x[i]) * widen(x[i]);
  sum = block_reduce(sum, Sum());
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
