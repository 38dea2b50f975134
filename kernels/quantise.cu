// Paths as int8 rows, as the search for nearest paths wants them: sep-metrics/1, section 7. One thread per row.
//
// quantise(paths, row_stride, value_stride, n, width, block_rows, mu, sigma, rows, norm)
//
//   paths         float32                 value d of row r at [r * row_stride + d * value_stride]: (width, 1) for an
//                                         (n, 3K) array, (1, n) for what qfh.cu writes
//   row_stride, value_stride, n   int64
//   width         int32                   3K
//   block_rows    int32                   rows that share one vote; 1 for queries
//   mu, sigma     (3K,) float64           of the library
// Out, with blocks = ceil(n / block_rows), and row i of block b being row b * block_rows + i:
//   rows          (block_rows, words, blocks) int32, words = ceil(3K / 4)   see quantise.cuh
//   norm          (block_rows, blocks) int32   each row's dot product with itself
// Rows past n in the last block are zeros. With block_rows = 1 that is what qfh.cu writes: (words, n) and (n,).
#include "quantise.cuh"
#include "window.cuh"

extern "C" __global__ void quantise(
    const float* __restrict__ paths, i64 row_stride, i64 value_stride, i64 n, int width, int block_rows,
    const double* __restrict__ mu, const double* __restrict__ sigma, int* __restrict__ rows, int* __restrict__ norm) {
    const i64 blocks = (n + block_rows - 1) / block_rows;
    const int words = (width + 3) / 4;
    FOR_EACH(at, blocks * block_rows) {
        const i64 block = at % blocks, i = at / blocks, r = block * block_rows + i;
        RowPacker row(rows + i * words * blocks + block, blocks);
        for (int d = 0; d < width; ++d)
            row.add(r < n ? quantised_value(paths[r * row_stride + d * value_stride], mu[d], sigma[d]) : 0);
        row.finish();
        norm[at] = row.norm;
    }
}
