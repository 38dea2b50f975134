// The library rows whose paths are nearest to each query's, one for each block of rows: sep-metrics/1, section 7, exactly.
// best_rows finds the best row of each block, best_blocks, run until one group is left, the best k blocks.
//
// best_rows(rows, norms, n_rows, block_rows, words, queries, query_norms, query_stride, query_at, eligible, n_queries,
//           cosine, row)
//
//   rows          (block_rows, words, blocks) int32   what quantise.cu makes of a library, blocks = ceil(n_rows / F)
//   norms         (block_rows, blocks) int32
//   n_rows        int64                   at most 2^31 - 1
//   block_rows    int32                   F: rows that share one vote
//   words         int32                   ceil(3K / 4)
//   queries       (words, query_stride) int32   quantised by the library's mu and sigma: by qfh.cu, or by quantise.cu
//                                         with block_rows = 1
//   query_norms   (query_stride,) int32
//   query_stride  int64
//   query_at      (n_queries,) int64, or null   positions in queries and query_norms; null: 0, 1, …
//   eligible      (n_queries,) int64      how many rows, from the first, each query may see; clipped to 0 … n_rows
//   n_queries     int64
// Out, for query j and block b at [j * blocks + b]:
//   cosine        (n_queries, blocks) float64   of the block's best eligible row; 0 where it has none
//   row           (n_queries, blocks) int32     that row; -1 there
// A thread takes one block of rows and QUERIES_PER_THREAD = 4 queries: a full grid is ceil(blocks / block size) *
// ceil(n_queries / 4) thread blocks. Any grid and block size gives the same result.
//
// best_blocks(cosine_in, row_in, n, n_queries, group, k, cosine_out, row_out)
//
//   cosine_in, row_in     (n_queries, n) float64, int32   as best_rows or best_blocks wrote them
//   n, n_queries  int64
//   group, k      int32                   k <= group: the best k of each `group` neighbouring entries are kept
// Out, with groups = max(1, ceil(n / group)):
//   cosine_out, row_out   (n_queries, groups * k)   each group's best, greatest cosine first, the later row first on a
//                                         tie; 0 and -1 where there are fewer; not the arrays that are read
// With groups = 1 these are the matches; until then run it again on its output, which shrinks if 2 k <= group. One
// thread per entry: groups * group * n_queries.
#include "window.cuh"

#define QUERIES_PER_THREAD 4
#define DEFAULT_WORDS 12  // of the contract's default path, K = 16: its queries are kept in registers

// Below any cosine: what a block has before its first row.
#define NO_COSINE -2.0

__device__ __forceinline__ double cosine_of(int dot, int norm, int query_norm) {
    const i64 product = i64(norm) * query_norm;
    return product > 0 ? double(dot) / sqrt(double(product)) : 0.0;
}

// A row's cosine can reach `cosine` only if dot * |dot| >= bar * norm. In float32 both sides together are off by six
// roundings of 2^-24 at most, a float64 cosine by far less: 2^-19 is five times that.
__device__ __forceinline__ float bar_of(double cosine, int query_norm) {
    const double square = cosine * fabs(cosine) * double(query_norm);
    return float(square - fabs(square) * (1.0 / 524288.0));
}

struct Queries {
    const int* __restrict__ words;
    const int* __restrict__ norms;
    i64 stride;
    const i64* __restrict__ at;
    const i64* __restrict__ eligible;
    i64 count;
};

// The best rows of one block for queries first … first + QUERIES_PER_THREAD - 1. WORDS is 0 where only `words` is known.
template <int WORDS>
__device__ __forceinline__ void best_rows_of(
    const int* __restrict__ rows, const int* __restrict__ norms, i64 n_rows, i64 blocks, int block_rows, int words,
    const Queries& queries, i64 first, i64 block, double* __restrict__ cosine_out, int* __restrict__ row_out) {
    const int* from[QUERIES_PER_THREAD];
    int held[QUERIES_PER_THREAD][WORDS ? WORDS : 1];
    int query_norm[QUERIES_PER_THREAD], best_row[QUERIES_PER_THREAD];
    i64 eligible[QUERIES_PER_THREAD], eligible_most = 0;
    double best[QUERIES_PER_THREAD];
    float bar[QUERIES_PER_THREAD];
#pragma unroll
    for (int g = 0; g < QUERIES_PER_THREAD; ++g) {
        const bool there = first + g < queries.count;
        const i64 j = there ? first + g : first, at = queries.at ? queries.at[j] : j;
        from[g] = queries.words + at;
        if constexpr (WORDS > 0) {
#pragma unroll
            for (int k = 0; k < WORDS; ++k) held[g][k] = from[g][k * queries.stride];
        }
        query_norm[g] = queries.norms[at];
        eligible[g] = there ? min(queries.eligible[j], n_rows) : 0;
        eligible_most = max(eligible_most, eligible[g]);
        best[g] = NO_COSINE;
        best_row[g] = -1;
        bar[g] = bar_of(NO_COSINE, query_norm[g]);
    }
    const i64 first_row = block * block_rows;
    for (int i = 0; i < block_rows && first_row + i < eligible_most; ++i) {
        int dot[QUERIES_PER_THREAD] = {};
#pragma unroll
        for (int k = 0; k < (WORDS ? WORDS : words); ++k) {
            const int word = rows[(i64(i) * words + k) * blocks + block];
#pragma unroll
            for (int g = 0; g < QUERIES_PER_THREAD; ++g)
                dot[g] = __dp4a(word, WORDS ? held[g][WORDS ? k : 0] : from[g][k * queries.stride], dot[g]);
        }
        const int norm = norms[i64(i) * blocks + block];
#pragma unroll
        for (int g = 0; g < QUERIES_PER_THREAD; ++g) {
            const float product = float(dot[g]);
            if (product * fabsf(product) < bar[g] * float(norm) || first_row + i >= eligible[g]) continue;
            const double cosine = cosine_of(dot[g], norm, query_norm[g]);
            if (cosine >= best[g]) {
                best[g] = cosine;
                best_row[g] = int(first_row + i);
                bar[g] = bar_of(cosine, query_norm[g]);
            }
        }
    }
#pragma unroll
    for (int g = 0; g < QUERIES_PER_THREAD; ++g) {
        if (first + g >= queries.count) break;
        cosine_out[(first + g) * blocks + block] = best_row[g] < 0 ? 0.0 : best[g];
        row_out[(first + g) * blocks + block] = best_row[g];
    }
}

extern "C" __global__ void best_rows(
    const int* __restrict__ rows, const int* __restrict__ norms, i64 n_rows, int block_rows, int words,
    const int* __restrict__ queries, const int* __restrict__ query_norms, i64 query_stride,
    const i64* __restrict__ query_at, const i64* __restrict__ eligible, i64 n_queries, double* __restrict__ cosine,
    int* __restrict__ row) {
    const Queries all = {queries, query_norms, query_stride, query_at, eligible, n_queries};
    const i64 blocks = (n_rows + block_rows - 1) / block_rows;
    const i64 groups = (n_queries + QUERIES_PER_THREAD - 1) / QUERIES_PER_THREAD;
    const i64 work = (blocks + blockDim.x - 1) / blockDim.x * groups;
    // Neighbouring thread blocks take the same rows, which then come from the cache, for other queries.
    for (i64 at = blockIdx.x; at < work; at += gridDim.x) {
        const i64 block = at / groups * blockDim.x + threadIdx.x, first = at % groups * QUERIES_PER_THREAD;
        if (block >= blocks) continue;
        if (words == DEFAULT_WORDS)
            best_rows_of<DEFAULT_WORDS>(rows, norms, n_rows, blocks, block_rows, words, all, first, block, cosine, row);
        else
            best_rows_of<0>(rows, norms, n_rows, blocks, block_rows, words, all, first, block, cosine, row);
    }
}

// An entry's place in the order: greatest cosine, then later row; those without a row come last.
__device__ __forceinline__ bool comes_before(double cosine, int row, double other_cosine, int other_row) {
    if (row < 0 || other_row < 0) return other_row < row;
    return cosine > other_cosine || (cosine == other_cosine && row > other_row);
}

extern "C" __global__ void best_blocks(
    const double* __restrict__ cosine_in, const int* __restrict__ row_in, i64 n, i64 n_queries, int group, int k,
    double* __restrict__ cosine_out, int* __restrict__ row_out) {
    const i64 groups = n > group ? (n + group - 1) / group : 1;
    FOR_EACH(at, groups * group * n_queries) {
        const i64 query = at / (groups * group), entry = at % (groups * group), of = entry / group;
        const int position = int(entry % group), there = int(min(i64(group), n - of * group));
        const double* __restrict__ cosines = cosine_in + query * n + of * group;
        const int* __restrict__ rows = row_in + query * n + of * group;
        const double cosine = position < there ? cosines[position] : 0.0;
        const int row = position < there ? rows[position] : -1;
        // Entries without a row are alike: among themselves they keep their order, past the end of the input too.
        int rank = max(0, position - there);
        for (int other = 0; other < there; ++other)
            rank += comes_before(cosines[other], rows[other], cosine, row) ||
                    (row < 0 && rows[other] < 0 && other < position);
        if (rank < k) {
            const i64 to = query * groups * k + of * k + rank;
            cosine_out[to] = cosine;
            row_out[to] = row;
        }
    }
}
