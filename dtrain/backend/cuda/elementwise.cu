// Functions of single elements, 16 bytes at a time where the arrays allow it.
#include "common.cuh"

__device__ __forceinline__ float erf_of(float x) { return erff(x); }
__device__ __forceinline__ double erf_of(double x) { return erf(x); }
__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }

struct Add {
  template <typename W> __device__ static W of(W x, W y) { return x + y; }
};

struct Relu {  // NaN stays NaN
  template <typename W> __device__ static W of(W x) { return x > W(0) || x != x ? x : W(0); }
};

struct ReluGrad {  // y is what relu gave
  template <typename W> __device__ static W of(W g, W y) { return y != W(0) ? g : W(0); }
};

struct Gelu {  // x Phi(x)
  template <typename W> __device__ static W of(W x) { return x * (W(0.5) * (W(1) + erf_of(x * W(0.7071067811865476)))); }
};

struct GeluGrad {  // Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)
  template <typename W> __device__ static W of(W g, W x) {
    const W phi = W(0.5) * (W(1) + erf_of(x * W(0.7071067811865476)));
    return g * (phi + x * exp_of(W(-0.5) * x * x) * W(0.3989422804014327));
  }
};

struct Erf {
  template <typename W> __device__ static W of(W x) { return erf_of(x); }
};

// y[i] = Function(x[i]). packs: of how many whole Packs the arrays consist, 0 where they do not lie on 16 bytes.
template <typename Function, typename T> __global__ void unary(const T* x, T* y, index_t n, index_t packs) {
  const index_t first = blockIdx.x * index_t(blockDim.x) + threadIdx.x, step = index_t(gridDim.x) * blockDim.x;
  for (index_t i = first; i < packs; i += step) {
    const Pack<T> in = reinterpret_cast<const Pack<T>*>(x)[i];
    Pack<T> out;
#pragma unroll
    for (int k = 0; k < Pack<T>::SIZE; ++k) out.at[k] = narrow<T>(Function::of(widen(in.at[k])));
    reinterpret_cast<Pack<T>*>(y)[i] = out;
  }
  for (index_t i = packs * Pack<T>::SIZE + first; i < n; i += step) y[i] = narrow<T>(Function::of(widen(x[i])));
}

// z[i] = Function(x[i], y[i])
template <typename Function, typename T>
__global__ void binary(const T* x, const T* y, T* z, index_t n, index_t packs) {
  const index_t first = blockIdx.x * index_t(blockDim.x) + threadIdx.x, step = index_t(gridDim.x) * blockDim.x;
  for (index_t i = first; i < packs; i += step) {
    const Pack<T> a = reinterpret_cast<const Pack<T>*>(x)[i], b = reinterpret_cast<const Pack<T>*>(y)[i];
    Pack<T> out;
#pragma unroll
    for (int k = 0; k < Pack<T>::SIZE; ++k) out.at[k] = narrow<T>(Function::of(widen(a.at[k]), widen(b.at[k])));
    reinterpret_cast<Pack<T>*>(z)[i] = out;
  }
  for (index_t i = packs * Pack<T>::SIZE + first; i < n; i += step) {
    z[i] = narrow<T>(Function::of(widen(x[i]), widen(y[i])));
  }
}

template <typename T> struct __align__(16) Eight {
  T at[8];
};

// y[i] = x[i] in another type. eights: of how many whole Eights the arrays consist, 0 where they do not lie on 16 bytes.
template <typename S, typename T> __global__ void convert(const S* x, T* y, index_t n, index_t eights) {
  const index_t first = blockIdx.x * index_t(blockDim.x) + threadIdx.x, step = index_t(gridDim.x) * blockDim.x;
  for (index_t i = first; i < eights; i += step) {
    const Eight<S> in = reinterpret_cast<const Eight<S>*>(x)[i];
    Eight<T> out;
#pragma unroll
    for (int k = 0; k < 8; ++k) out.at[k] = narrow<T>(widen(in.at[k]));
    reinterpret_cast<Eight<T>*>(y)[i] = out;
  }
  for (index_t i = eights * 8 + first; i < n; i += step) y[i] = narrow<T>(widen(x[i]));
}

// y (rows, columns) = x (given, width) in another type, whose lines are `line` elements apart, with zeros around it. Each
// block takes UNROLL * blockDim.x neighbours of a row.
template <typename S, typename T>
__global__ void convert_rows(const S* x, T* y, int given, int width, index_t line, int rows, int columns) {
  constexpr int UNROLL = 8;
  const int first = blockIdx.x * UNROLL * blockDim.x + threadIdx.x;
  for (int r = blockIdx.y; r < rows; r += gridDim.y) {
    S in[UNROLL];
#pragma unroll
    for (int k = 0; k < UNROLL; ++k) {
      const int c = first + k * blockDim.x;
      if (r < given && c < width) in[k] = x[r * line + c];
    }
#pragma unroll
    for (int k = 0; k < UNROLL; ++k) {
      const int c = first + k * blockDim.x;
      if (c < columns) y[r * index_t(columns) + c] = narrow<T>(r < given && c < width ? widen(in[k]) : 0);
    }
  }
}
