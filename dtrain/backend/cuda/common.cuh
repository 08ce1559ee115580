// What all kernels share: number types, reductions in a fixed order, loads and stores of 16 bytes.
// The same sources run on a CPU in the tests (DTRAIN_CPU), one fiber for each thread of a block.
#pragma once

#ifdef DTRAIN_CPU
#include "emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#ifndef DTRAIN_EXTERN_SHARED  // the emulator has its own
#define DTRAIN_EXTERN_SHARED(T, name) extern __shared__ __align__(16) T name[]
#endif

typedef long long index_t;

// The type in which numbers of type T are computed with: float for all but double.
template <typename T> struct WideOf { typedef float type; };
template <> struct WideOf<double> { typedef double type; };
template <typename T> using wide_t = typename WideOf<T>::type;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// narrow<T>(x): x rounded to T, to nearest, ties to even.
template <typename T> struct Narrow {
  __device__ static T of(wide_t<T> x) { return x; }
};
template <> struct Narrow<__half> {
  __device__ static __half of(float x) { return __float2half_rn(x); }
};
template <> struct Narrow<__nv_bfloat16> {
  __device__ static __nv_bfloat16 of(float x) { return __float2bfloat16_rn(x); }
};
template <typename T> __device__ __forceinline__ T narrow(wide_t<T> x) { return Narrow<T>::of(x); }

// 16 bytes of numbers, moved by one instruction.
template <typename T> struct __align__(16) Pack {
  static constexpr int SIZE = 16 / sizeof(T);
  T at[SIZE];
};

// Neighbours that a thread works on: a Pack of them where WHOLE, or one.
template <typename T, bool WHOLE> struct Few {
  static constexpr int SIZE = WHOLE ? Pack<T>::SIZE : 1;
  T at[SIZE];
  __device__ __forceinline__ void read(const T* x) {
    if (WHOLE) {
      *reinterpret_cast<Pack<T>*>(at) = *reinterpret_cast<const Pack<T>*>(x);
    } else {
      at[0] = x[0];
    }
  }
  __device__ __forceinline__ void write(T* x) const {
    if (WHOLE) {
      *reinterpret_cast<Pack<T>*>(x) = *reinterpret_cast<const Pack<T>*>(at);
    } else {
      x[0] = at[0];
    }
  }
};

__device__ __forceinline__ float infinity_of(float) { return __int_as_float(0x7f800000); }
__device__ __forceinline__ double infinity_of(double) { return __longlong_as_double(0x7ff0000000000000ll); }

// The maximum, which is NaN where one of the two is.
template <typename W> __device__ __forceinline__ W nan_max(W a, W b) { return (a > b || a != a) ? a : b; }

struct Sum {
  template <typename W> __device__ W operator()(W a, W b) const { return a + b; }
  template <typename W> __device__ static W start(W) { return W(0); }
};
struct Max {
  template <typename W> __device__ W operator()(W a, W b) const { return nan_max(a, b); }
  template <typename W> __device__ static W start(W x) { return -infinity_of(x); }
};

// All 32 lanes call; each gets the result. The order of additions is fixed: a butterfly.
template <typename Op, typename W> __device__ __forceinline__ W warp_reduce(W x, Op op) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x = op(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// All threads of a block of one dimension call, a multiple of 32 of them; each gets the result.
template <typename Op, typename W> __device__ __forceinline__ W block_reduce(W x, Op op) {
  __shared__ W parts[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = warp_reduce(x, op);
  if (warps == 1) return x;
  __syncthreads();  // parts may still be read, from the call before
  if (lane == 0) parts[warp] = x;
  __syncthreads();
  x = lane < warps ? parts[lane] : Op::start(x);
  return warp_reduce(x, op);
}
