// Philox4x64-10, NumPy's: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#include "common.cuh"

typedef unsigned long long word;

struct Block {
  word at[4];
};

// The numbers of one counter.
__device__ __forceinline__ Block philox(Block counter, word key0, word key1) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const word a = counter.at[0], b = counter.at[2], m0 = 0xD2E7470EE14C6C93ull, m1 = 0xCA5A826395121157ull;
    counter = Block{{__umul64hi(m1, b) ^ counter.at[1] ^ key0, m1 * b, __umul64hi(m0, a) ^ counter.at[3] ^ key1, m0 * a}};
    key0 += 0x9E3779B97F4A7C15ull;
    key1 += 0xBB67AE8584CAA73Bull;
  }
  return counter;
}

// kept[i]: whether word i (of 32 bits, little end first) of the stream is at least `least`. The stream's first block is
// the one after the counter c, whose first word counts blocks and does not overflow.
__device__ __forceinline__ void keep(bool* kept, index_t n, unsigned least, word key0, word key1, const Block& c) {
  const index_t blocks = (n + 7) / 8;
  for (index_t i = blockIdx.x * index_t(blockDim.x) + threadIdx.x; i < blocks; i += index_t(gridDim.x) * blockDim.x) {
    const Block made = philox(Block{{c.at[0] + 1 + word(i), c.at[1], c.at[2], c.at[3]}}, key0, key1);
    bool found[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) found[k] = unsigned(made.at[k / 2] >> (k % 2 * 32)) >= least;
    if (i * 8 + 8 <= n) {
      *reinterpret_cast<word*>(kept + i * 8) = *reinterpret_cast<const word*>(found);
    } else {
      for (int k = 0; i * 8 + k < n; ++k) kept[i * 8 + k] = found[k];
    }
  }
}

__global__ void dropout_mask(bool* kept, index_t n, unsigned least, word key0, word key1, word c0, word c1, word c2,
                             word c3) {
  keep(kept, n, least, key0, key1, Block{{c0, c1, c2, c3}});
}

// The same with key and counter in memory, where they may be others when a graph is started again.
__global__ void dropout_mask_of(bool* kept, index_t n, unsigned least, const word* s) {
  keep(kept, n, least, s[0], s[1], Block{{s[2], s[3], s[4], s[5]}});
}
