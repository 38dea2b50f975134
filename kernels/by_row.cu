// Columns into rows, so that what goes back to the host is copied there as it is.
//
// by_row_4(columns, width, n, rows)
// by_row_8(columns, width, n, rows)
//
//   columns       (width, n) values of 4 or 8 bytes, as qfh.cu writes them
//   width, n      int64
// Out:
//   rows          (n, width) the same values
// One thread per value: width * n. Neighbouring threads write neighbouring values; what they read lies in the cache.
#include "window.cuh"

extern "C" __global__ void by_row_4(const int* __restrict__ columns, i64 width, i64 n, int* __restrict__ rows) {
    FOR_EACH(at, width * n) rows[at] = columns[at % width * n + at / width];
}

extern "C" __global__ void by_row_8(const i64* __restrict__ columns, i64 width, i64 n, i64* __restrict__ rows) {
    FOR_EACH(at, width * n) rows[at] = columns[at % width * n + at / width];
}
