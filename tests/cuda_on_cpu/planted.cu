// Kernels for the tests of the emulator: some are right, and some have the bug that their name says.
#include "common.cuh"

extern "C" __global__ void transposed(const float* x, float* y, int rows, int columns) {
  __shared__ float tile[16][17];
  int i = blockIdx.y * 16 + threadIdx.y, j = blockIdx.x * 16 + threadIdx.x;
  if (i < rows && j < columns) tile[threadIdx.y][threadIdx.x] = x[i * columns + j];
  __syncthreads();
  i = blockIdx.y * 16 + threadIdx.x;
  j = blockIdx.x * 16 + threadIdx.y;
  if (i < rows && j < columns) y[j * rows + i] = tile[threadIdx.x][threadIdx.y];
}

template <typename T> __global__ void total(const T* x, wide_t<T>* y, int n) {
  wide_t<T> sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += widen(x[i]);
  sum = block_reduce(sum, Sum());
  if (threadIdx.x == 0) *y = sum;
}

extern "C" __global__ void missing_barrier(float* x) {
  __shared__ float part[64];
  part[threadIdx.x] = x[threadIdx.x];
  x[threadIdx.x] = part[(threadIdx.x + 1) % 64];
}

extern "C" __global__ void divergent_barrier(float* x) {
  if (threadIdx.x < 32) {
    __syncthreads();
    x[threadIdx.x] = 1;
  } else {
    __syncthreads();
  }
}

extern "C" __global__ void return_before_barrier(float* x, int n) {
  if (int(threadIdx.x) >= n) return;
  __syncthreads();
  x[threadIdx.x] = 1;
}

extern "C" __global__ void write_behind_array(float* x, int n) { x[n] = 1; }

extern "C" __global__ void write_behind_shared(float* x, int n) {
  DTRAIN_EXTERN_SHARED(float, room);
  room[n] = x[0];
}

extern "C" __global__ void lane_not_in_mask(float* x) {
  x[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, x[threadIdx.x], 1);
}

extern "C" __global__ void half_a_warp_waits(float* x) {
  if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
  __syncthreads();
}

extern "C" __global__ void read_behind_array(const float* x, float* y, int n) { y[0] = x[n]; }
