// A path as int8, four values to a word: value d is byte d % 4 of word d / 4, the last word is filled up with zeros.
#pragma once

// sep-metrics/1, section 7. Paths are float32, the arithmetic is float64.
__device__ __forceinline__ int quantised_value(float value, double mu, double sigma) {
    if (sigma < 1e-9) return 0;
    const double scaled = rint((double(value) - mu) / sigma * 32.0);
    return int(scaled < -127.0 ? -127.0 : scaled > 127.0 ? 127.0 : scaled);
}

// Takes a row's values one by one and stores each word when it is full.
struct RowPacker {
    int* at;
    long long stride;
    unsigned word;
    int bytes, norm;

    __device__ __forceinline__ RowPacker(int* first_word, long long words_apart)
        : at(first_word), stride(words_apart), word(0), bytes(0), norm(0) {}

    __device__ __forceinline__ void add(int value) {
        word |= unsigned(value & 0xff) << (8 * bytes);
        norm += value * value;
        if (++bytes == 4) store();
    }

    __device__ __forceinline__ void finish() {
        if (bytes) store();
    }

    __device__ __forceinline__ void store() {
        *at = int(word);
        at += stride;
        word = 0;
        bytes = 0;
    }
};
