// The gradient of a table of vectors, without atomics.
#include "common.cuh"

// order: the positions of g's rows, sorted by index; equal ones in the order of positions. A block finds whether a
// run of equal indices begins at its place, and then sums the run's rows, a column to each thread.
template <typename T, typename I>
__global__ void embedding_grad(const T* g, const I* index, const long long* order, T* table, index_t n,
                               index_t columns, index_t rows) {
  typedef wide_t<T> W;
  const index_t first = blockIdx.x;
  const I row = index[order[first]];
  if (row < 0 || row >= rows || (first > 0 && index[order[first - 1]] == row)) return;
  for (index_t j = threadIdx.x; j < columns; j += blockDim.x) {
    W sum = W(0);
    for (index_t k = first; k < n && index[order[k]] == row; ++k) sum += widen(g[order[k] * columns + j]);
    table[row * columns + j] = narrow<T>(sum);
  }
}
