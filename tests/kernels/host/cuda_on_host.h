// What kernels/*.cu use of CUDA, on the host: a kernel is a function that runs once for each thread of a grid.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline

struct Dim {
    unsigned x = 0;
};
static Dim threadIdx, blockIdx, blockDim, gridDim;

using std::max;
using std::min;

static inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }

static inline int __dp4a(int a, int b, int sum) {
    for (int k = 0; k < 4; ++k) sum += (signed char)(a >> 8 * k) * (signed char)(b >> 8 * k);
    return sum;
}

// As cuLaunchKernel has it: args[k] is the address of argument k.
template <class... Args, std::size_t... K>
void launch(void (*kernel)(Args...), unsigned grid, unsigned block, void** args, std::index_sequence<K...>) {
    gridDim.x = grid;
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) kernel(*static_cast<Args*>(args[K])...);
}

template <class... Args>
void launch(void (*kernel)(Args...), unsigned grid, unsigned block, void** args) {
    launch(kernel, grid, block, args, std::index_sequence_for<Args...>());
}

#define LAUNCHED_BY(name, kernel) \
    extern "C" void name(unsigned grid, unsigned block, void** args) { launch(kernel, grid, block, args); }
