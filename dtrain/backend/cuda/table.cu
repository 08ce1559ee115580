// The gradient of a table of vectors, without atomics on floats: positions are sorted by row, and each row's are added up
// in their order.
#include "common.cuh"

// -- a stable sort by eight bits of the keys at a time -------------------------------------------------------------------

constexpr int WARPS = 8, ROUNDS = 8, TILE = WARPS * ROUNDS * 32;  // of a block of 256 threads

// The row that a position is of; `rows` stands for all that are outside of the table, and comes last.
template <typename K> __device__ __forceinline__ int row_of(K key, int rows) {
  return key >= 0 && key < rows ? int(key) : rows;
}

// counts (256, blocks): how many of a block's keys have each digit.
template <typename K> __global__ void count_digits(const K* keys, int* counts, index_t n, int rows, int shift) {
  __shared__ int found[256];
  found[threadIdx.x] = 0;
  __syncthreads();
  const index_t first = blockIdx.x * index_t(TILE), end = first + TILE < n ? first + TILE : n;
  for (index_t i = first + threadIdx.x; i < end; i += blockDim.x) {
    atomicAdd(&found[row_of(keys[i], rows) >> shift & 255], 1);  // the order of whole numbers does not matter
  }
  __syncthreads();
  counts[threadIdx.x * index_t(gridDim.x) + blockIdx.x] = found[threadIdx.x];
}

// Each number becomes the sum of those before it; one block of 1024 threads.
__global__ void sum_before(int* counts, index_t n) {
  __shared__ int of_warps[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int before = 0;
  for (index_t start = 0; start < n; start += blockDim.x) {
    const index_t i = start + threadIdx.x;
    const int own = i < n ? counts[i] : 0;
    int sum = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset <<= 1) {
      const int other = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += other;
    }
    if (lane == 31) of_warps[warp] = sum;
    __syncthreads();
    int all = 0, lower = 0;
    for (int w = 0; w < 32; ++w) {
      if (w < warp) lower += of_warps[w];
      all += of_warps[w];
    }
    if (i < n) counts[i] = before + lower + sum - own;
    before += all;
    __syncthreads();
  }
}

// The lanes whose keys have this lane's digit.
__device__ __forceinline__ unsigned peers_of(bool active, int digit) {
  unsigned peers = __ballot_sync(0xffffffffu, active);
#pragma unroll
  for (int bit = 0; bit < 8; ++bit) {
    const bool one = digit >> bit & 1;
    const unsigned ones = __ballot_sync(0xffffffffu, active && one);
    peers &= one ? ones : ~ones;
  }
  return peers;
}

// Keys, and with them their positions, go to their places. order: null where keys lie in the order of their positions.
template <typename K>
__global__ void move_keys(const K* keys, const int* order, const int* counts, int* sorted, int* positions, index_t n,
                          int rows, int shift) {
  __shared__ int places[WARPS][256];  // of a warp's next key of each digit
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const index_t first = blockIdx.x * index_t(TILE) + warp * (ROUNDS * 32) + lane;
  for (int w = 0; w < WARPS; ++w) places[w][threadIdx.x] = 0;
  __syncthreads();
  for (int round = 0; round < ROUNDS; ++round) {
    const index_t i = first + round * 32;
    const int digit = i < n ? row_of(keys[i], rows) >> shift & 255 : 0;
    const unsigned peers = peers_of(i < n, digit);
    if (i < n && __ffs(peers) - 1 == lane) places[warp][digit] += __popc(peers);
    __syncwarp();
  }
  __syncthreads();
  int place = counts[threadIdx.x * index_t(gridDim.x) + blockIdx.x];
  for (int w = 0; w < WARPS; ++w) {
    const int here = places[w][threadIdx.x];
    places[w][threadIdx.x] = place;
    place += here;
  }
  __syncthreads();
  for (int round = 0; round < ROUNDS; ++round) {
    const index_t i = first + round * 32;
    const int row = i < n ? row_of(keys[i], rows) : 0, digit = row >> shift & 255;
    const unsigned peers = peers_of(i < n, digit);
    if (i < n) {
      const int to = places[warp][digit] + __popc(peers & ((1u << lane) - 1));
      sorted[to] = row;
      positions[to] = order ? order[i] : int(i);
    }
    __syncwarp();
    if (i < n && __ffs(peers) - 1 == lane) places[warp][digit] += __popc(peers);
    __syncwarp();
  }
}

// -- sums over runs of one row ------------------------------------------------------------------------------------------

// A block adds up a piece of `piece` sorted positions, a column to each thread. Of a run that lies in the piece the sum
// is the row's; of one that began before it goes to heads (pieces, columns), of one that goes on behind it to tails.
template <typename T>
__global__ void sum_pieces(const T* g, const int* sorted, const int* positions, T* table, wide_t<T>* heads,
                           wide_t<T>* tails, index_t n, index_t columns, int rows, int piece) {
  typedef wide_t<T> W;
  const index_t first = blockIdx.x * index_t(piece), end = first + piece < n ? first + piece : n;
  for (index_t j = threadIdx.x; j < columns; j += blockDim.x) {
    W sum = W(0);
    bool began = first == 0 || sorted[first - 1] != sorted[first];
    for (index_t k = first; k < end; ++k) {
      const int row = sorted[k];
      if (row == rows) break;  // and so are all that come
      sum += widen(g[positions[k] * columns + j]);
      if (k + 1 < end && sorted[k + 1] == row) continue;
      const bool ends = k + 1 == n || sorted[k + 1] != row;
      if (began && ends) {
        table[row * columns + j] = narrow<T>(sum);
      } else {
        (began ? tails : heads)[blockIdx.x * columns + j] = sum;
      }
      sum = W(0);
      began = true;
    }
  }
}

// The sum of a run that begins in this block's piece and goes on behind it.
template <typename T>
__global__ void join_pieces(const int* sorted, T* table, const wide_t<T>* heads, const wide_t<T>* tails, index_t n,
                            index_t columns, int rows, int piece) {
  typedef wide_t<T> W;
  const index_t first = blockIdx.x * index_t(piece), next = first + piece;
  if (next >= n) return;
  const int row = sorted[next];
  if (row == rows || sorted[next - 1] != row) return;                                // nothing goes on
  if (sorted[first] == row && first > 0 && sorted[first - 1] == row) return;         // it began before
  for (index_t j = threadIdx.x; j < columns; j += blockDim.x) {
    W sum = tails[blockIdx.x * columns + j];
    for (index_t p = blockIdx.x + 1; p * piece < n && sorted[p * piece] == row; ++p) sum += heads[p * columns + j];
    table[row * columns + j] = narrow<T>(sum);
  }
}
