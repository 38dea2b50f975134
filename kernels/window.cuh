// What the window kernels share: integer types, where a window lies, and bits.
#pragma once

typedef unsigned char u8;
typedef unsigned long long u64;
typedef long long i64;

// The threads of a grid share out n items: any grid and block size gives the same result.
#define FOR_EACH(item, n) \
    for (i64 item = i64(blockIdx.x) * blockDim.x + threadIdx.x; item < (n); item += i64(gridDim.x) * blockDim.x)

__device__ __forceinline__ i64 anchor_of(const i64* __restrict__ anchors, i64 first_anchor, i64 window) {
    return anchors ? anchors[window] : first_anchor + window;
}

// 64 bits of the series from bit `at` on; past the end of the series they mean nothing.
__device__ __forceinline__ u64 bits_from(const u64* __restrict__ bits, i64 at) {
    const i64 word = at >> 6;
    const int shift = int(at & 63);
    return shift ? bits[word] >> shift | bits[word + 1] << (64 - shift) : bits[word];
}
