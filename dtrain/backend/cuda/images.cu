// Windows on images (N, H, W, C), channels last: patches for products, pooling, convolution of each channel by itself.
// Everything is gathered: a thread makes an element (or 16 bytes of channels) of the result, so no atomics are needed,
// and what is added up is added in the order of the window.
#include "common.cuh"

// The sizes of the image, of what the windows make of it, and of the window; how it moves, what lies before the image.
struct Windows {
  int h, w, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, step_h, step_w;

  // f(k, row, column) for each element k of a window that falls on the image.
  template <typename F> __device__ __forceinline__ void each_element(int p, int q, F f) const {
    for (int k = 0, i = 0; i < kernel_h; ++i) {
      const int row = p * stride_h + i * step_h - pad_h;
      for (int j = 0; j < kernel_w; ++j, ++k) {
        const int column = q * stride_w + j * step_w - pad_w;
        if (row >= 0 && row < h && column >= 0 && column < w) f(k, row, column);
      }
    }
  }

  // f(k, p, q) for each window (p, q) whose element k falls on this place of the image.
  template <typename F> __device__ __forceinline__ void each_window(int row, int column, F f) const {
    for (int k = 0, i = 0; i < kernel_h; ++i) {
      const int p = window(row + pad_h - i * step_h, stride_h, out_h);
      for (int j = 0; j < kernel_w; ++j, ++k) {
        const int q = window(column + pad_w - j * step_w, stride_w, out_w);
        if (p >= 0 && q >= 0) f(k, p, q);
      }
    }
  }

  __device__ static __forceinline__ int window(int at, int stride, int out) {
    return at >= 0 && at % stride == 0 && at / stride < out ? at / stride : -1;
  }
};
#define WINDOWS                                                                                           \
  int h, int w, int out_h, int out_w, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h,  \
      int pad_w, int step_h, int step_w
#define GIVEN const Windows s = {h, w, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, step_h, step_w}

#define EACH(i, count)                                                                       \
  for (index_t i = blockIdx.x * index_t(blockDim.x) + threadIdx.x; i < count; i += index_t(gridDim.x) * blockDim.x)

// Where in an array (N, H, W, runs) the i-th run of channels is.
struct Place {
  int c, column, row, image;
  __device__ __forceinline__ Place(index_t i, int runs, int h, int w) {
    c = int(i % runs);
    i /= runs;
    column = int(i % w);
    i /= w;
    row = int(i % h);
    image = int(i / h);
  }
};
__device__ __forceinline__ index_t at(int image, int row, int column, int h, int w) {
  return (index_t(image) * h + row) * w + column;
}

// Sums of neighbours.
template <typename T, bool WHOLE> struct Totals {
  typedef Few<T, WHOLE> F;
  typedef wide_t<T> W;
  W sum[F::SIZE];
  __device__ __forceinline__ Totals() {
#pragma unroll
    for (int e = 0; e < F::SIZE; ++e) sum[e] = W(0);
  }
  // Add f(number, which of the neighbours) for those at x.
  template <typename G> __device__ __forceinline__ void add(const T* x, G f) {
    F few;
    few.read(x);
#pragma unroll
    for (int e = 0; e < F::SIZE; ++e) sum[e] += f(widen(few.at[e]), e);
  }
  // Add the products of those at x and those at y.
  __device__ __forceinline__ void add_products(const T* x, const T* y) {
    F few;
    few.read(y);
    add(x, [&](W v, int e) { return v * widen(few.at[e]); });
  }
  __device__ __forceinline__ void write(T* y, W divisor = W(1)) const {
    F few;
#pragma unroll
    for (int e = 0; e < F::SIZE; ++e) few.at[e] = narrow<T>(sum[e] / divisor);
    few.write(y);
  }
};

// patches (G, N * out, K, C / G) of x (N, H, W, C). runs: of 16 bytes, or elements, in C / G.
template <typename T, bool WHOLE>
__global__ void im2col(const T* x, T* patches, int images, int groups, int runs, WINDOWS) {
  GIVEN;
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  const int places = s.kernel_h * s.kernel_w, outs = s.out_h * s.out_w, rows = images * outs;
  EACH(i, index_t(groups) * rows * places * runs) {
    const int c = int(i % runs);
    const index_t left = i / runs;
    const int k = int(left % places), row = int(left / places % rows), group = int(left / places / rows);
    const int o = row % outs, image = row / outs;
    const int y = o / s.out_w * s.stride_h + k / s.kernel_w * s.step_h - s.pad_h;
    const int z = o % s.out_w * s.stride_w + k % s.kernel_w * s.step_w - s.pad_w;
    Few<T, WHOLE> few;
#pragma unroll
    for (int e = 0; e < SIZE; ++e) few.at[e] = narrow<T>(0);
    if (y >= 0 && y < s.h && z >= 0 && z < s.w) {
      few.read(x + ((at(image, y, z, s.h, s.w) * groups + group) * runs + c) * SIZE);
    }
    few.write(patches + i * SIZE);
  }
}

// The gradient of im2col: gx (N, H, W, C), the sum of what falls on each element.
template <typename T, bool WHOLE>
__global__ void col2im(const T* patches, T* gx, int images, int groups, int runs, WINDOWS) {
  GIVEN;
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  const int places = s.kernel_h * s.kernel_w;
  EACH(i, index_t(images) * s.h * s.w * groups * runs) {
    const Place x(i, groups * runs, s.h, s.w);
    const int group = x.c / runs, c = x.c % runs;
    Totals<T, WHOLE> totals;
    s.each_window(x.row, x.column, [&](int k, int p, int q) {
      const index_t row = index_t(group) * images * s.out_h * s.out_w + at(x.image, p, q, s.out_h, s.out_w);
      totals.add(patches + ((row * places + k) * runs + c) * SIZE, [](wide_t<T> v, int) { return v; });
    });
    totals.write(gx + i * SIZE);
  }
}

// y (N, out, C), and in which element of its window the maximum is; outside of the image lies -infinity. The first of
// equal elements wins, but the last NaN.
template <typename T, typename I, bool WHOLE>
__global__ void max_pool(const T* x, T* y, I* winner, int images, int runs, WINDOWS) {
  GIVEN;
  typedef wide_t<T> W;
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  EACH(i, index_t(images) * s.out_h * s.out_w * runs) {
    const Place o(i, runs, s.out_h, s.out_w);
    W best[SIZE];
    int won[SIZE];
#pragma unroll
    for (int e = 0; e < SIZE; ++e) {
      best[e] = -infinity_of(W(0));
      won[e] = 0;
    }
    s.each_element(o.row, o.column, [&](int k, int row, int column) {
      Few<T, WHOLE> few;
      few.read(x + (at(o.image, row, column, s.h, s.w) * runs + o.c) * SIZE);
#pragma unroll
      for (int e = 0; e < SIZE; ++e) {
        const W v = widen(few.at[e]);
        if (v > best[e] || v != v) {
          best[e] = v;
          won[e] = k;
        }
      }
    });
    Few<T, WHOLE> made;
#pragma unroll
    for (int e = 0; e < SIZE; ++e) {
      made.at[e] = narrow<T>(best[e]);
      winner[i * SIZE + e] = I(won[e]);
    }
    made.write(y + i * SIZE);
  }
}

// gx (N, H, W, C): what the windows whose maximum an element is send back.
template <typename T, typename I, bool WHOLE>
__global__ void max_pool_grad(const T* g, const I* winner, T* gx, int images, int runs, WINDOWS) {
  GIVEN;
  typedef wide_t<T> W;
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  EACH(i, index_t(images) * s.h * s.w * runs) {
    const Place x(i, runs, s.h, s.w);
    Totals<T, WHOLE> totals;
    s.each_window(x.row, x.column, [&](int k, int p, int q) {
      const index_t o = (at(x.image, p, q, s.out_h, s.out_w) * runs + x.c) * SIZE;
      totals.add(g + o, [&](W v, int e) { return winner[o + e] == I(k) ? v : W(0); });
    });
    totals.write(gx + i * SIZE);
  }
}

// y (N, out, C) = the sums over windows / count (out,)
template <typename T, bool WHOLE>
__global__ void avg_pool(const T* x, const wide_t<T>* count, T* y, int images, int runs, WINDOWS) {
  GIVEN;
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  EACH(i, index_t(images) * s.out_h * s.out_w * runs) {
    const Place o(i, runs, s.out_h, s.out_w);
    Totals<T, WHOLE> totals;
    s.each_element(o.row, o.column, [&](int, int row, int column) {
      totals.add(x + (at(o.image, row, column, s.h, s.w) * runs + o.c) * SIZE, [](wide_t<T> v, int) { return v; });
    });
    totals.write(y + i * SIZE, count[o.row * s.out_w + o.column]);
  }
}

template <typename T, bool WHOLE>
__global__ void avg_pool_grad(const T* g, const wide_t<T>* count, T* gx, int images, int runs, WINDOWS) {
  GIVEN;
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  EACH(i, index_t(images) * s.h * s.w * runs) {
    const Place x(i, runs, s.h, s.w);
    Totals<T, WHOLE> totals;
    s.each_window(x.row, x.column, [&](int, int p, int q) {
      const wide_t<T> n = count[p * s.out_w + q];
      totals.add(g + (at(x.image, p, q, s.out_h, s.out_w) * runs + x.c) * SIZE, [&](wide_t<T> v, int) { return v / n; });
    });
    totals.write(gx + i * SIZE);
  }
}

// Bin i of `out` ones that cover `size` places: from floor(i size / out) to ceil((i + 1) size / out).
struct Bin {
  int start, end;
  __device__ __forceinline__ Bin(int i, int size, int out)
      : start(int(index_t(i) * size / out)), end(int((index_t(i + 1) * size + out - 1) / out)) {}
};

// y (N, out_h, out_w, C): the means over bins.
template <typename T, bool WHOLE>
__global__ void adaptive_avg_pool(const T* x, T* y, int images, int runs, int h, int w, int out_h, int out_w) {
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  EACH(i, index_t(images) * out_h * out_w * runs) {
    const Place o(i, runs, out_h, out_w);
    const Bin rows(o.row, h, out_h), columns(o.column, w, out_w);
    Totals<T, WHOLE> totals;
    for (int a = rows.start; a < rows.end; ++a) {
      for (int b = columns.start; b < columns.end; ++b) {
        totals.add(x + (at(o.image, a, b, h, w) * runs + o.c) * SIZE, [](wide_t<T> v, int) { return v; });
      }
    }
    totals.write(y + i * SIZE, wide_t<T>((rows.end - rows.start) * (columns.end - columns.start)));
  }
}

// Of the bins that cover a place, which may overlap, the first is floor(place out / size).
template <typename T, bool WHOLE>
__global__ void adaptive_avg_pool_grad(const T* g, T* gx, int images, int runs, int h, int w, int out_h, int out_w) {
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  EACH(i, index_t(images) * h * w * runs) {
    const Place x(i, runs, h, w);
    Totals<T, WHOLE> totals;
    for (int p = int(index_t(x.row) * out_h / h); p < out_h; ++p) {
      const Bin rows(p, h, out_h);
      if (rows.start > x.row) break;
      for (int q = int(index_t(x.column) * out_w / w); q < out_w; ++q) {
        const Bin columns(q, w, out_w);
        if (columns.start > x.column) break;
        const wide_t<T> n = wide_t<T>((rows.end - rows.start) * (columns.end - columns.start));
        totals.add(g + (at(x.image, p, q, out_h, out_w) * runs + x.c) * SIZE, [&](wide_t<T> v, int) { return v / n; });
      }
    }
    totals.write(gx + i * SIZE);
  }
}

// Each channel by itself: y (N, out, C) from x (N, H, W, C) and weight (K, C).
template <typename T, bool WHOLE>
__global__ void depthwise(const T* x, const T* weight, T* y, int images, int runs, WINDOWS) {
  GIVEN;
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  EACH(i, index_t(images) * s.out_h * s.out_w * runs) {
    const Place o(i, runs, s.out_h, s.out_w);
    Totals<T, WHOLE> totals;
    s.each_element(o.row, o.column, [&](int k, int row, int column) {
      totals.add_products(x + (at(o.image, row, column, s.h, s.w) * runs + o.c) * SIZE,
                          weight + (index_t(k) * runs + o.c) * SIZE);
    });
    totals.write(y + i * SIZE);
  }
}

template <typename T, bool WHOLE>
__global__ void depthwise_data_grad(const T* g, const T* weight, T* gx, int images, int runs, WINDOWS) {
  GIVEN;
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  EACH(i, index_t(images) * s.h * s.w * runs) {
    const Place x(i, runs, s.h, s.w);
    Totals<T, WHOLE> totals;
    s.each_window(x.row, x.column, [&](int k, int p, int q) {
      totals.add_products(g + (at(x.image, p, q, s.out_h, s.out_w) * runs + x.c) * SIZE,
                          weight + (index_t(k) * runs + x.c) * SIZE);
    });
    totals.write(gx + i * SIZE);
  }
}

// parts (chunks, K, C): the sums of g x[k] over the windows of each chunk. A block has 256 threads, x of them along
// channels, y along windows; blockIdx.z is the place in the window.
template <typename T, bool WHOLE>
__global__ void depthwise_weight_parts(const T* g, const T* x, wide_t<T>* parts, int images, int runs, int chunk, WINDOWS) {
  GIVEN;
  typedef wide_t<T> W;
  constexpr int SIZE = Few<T, WHOLE>::SIZE;
  __shared__ W room[256 * SIZE];
  const int c = blockIdx.x * blockDim.x + threadIdx.x, k = blockIdx.z, rows = images * s.out_h * s.out_w;
  const int first = blockIdx.y * chunk, end = first + chunk < rows ? first + chunk : rows;
  Totals<T, WHOLE> totals;
  for (int row = first + threadIdx.y; c < runs && row < end; row += blockDim.y) {
    const Place o(row, 1, s.out_h, s.out_w);
    const int a = o.row * s.stride_h + k / s.kernel_w * s.step_h - s.pad_h;
    const int b = o.column * s.stride_w + k % s.kernel_w * s.step_w - s.pad_w;
    if (a < 0 || a >= s.h || b < 0 || b >= s.w) continue;
    totals.add_products(g + (index_t(row) * runs + c) * SIZE, x + (at(o.image, a, b, s.h, s.w) * runs + c) * SIZE);
  }
#pragma unroll
  for (int e = 0; e < SIZE; ++e) room[(threadIdx.y * blockDim.x + threadIdx.x) * SIZE + e] = totals.sum[e];
  __syncthreads();
  if (threadIdx.y != 0 || c >= runs) return;
#pragma unroll
  for (int e = 0; e < SIZE; ++e) {
    W total = W(0);
    for (int y = 0; y < blockDim.y; ++y) total += room[(y * blockDim.x + threadIdx.x) * SIZE + e];
    parts[((index_t(blockIdx.y) * gridDim.z + k) * runs + c) * SIZE + e] = total;
  }
}
