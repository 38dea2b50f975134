// QFH, damping, path and potential of many windows: sep-metrics/1, sections 4 and 5. One thread per window.
//
// qfh(bits, points, anchors, first_anchor, n, history, forward, samples, hold, eps, T, R, I, E, library, mu, sigma,
//     initial, damped, lam, potential, counts, settled_at, converged, rupture_collapse, path, quantised, norm)
//
//   bits          (ceil(m / 64) + 1,) uint64   bit i of the series is bit i % 64 of word i / 64; the last word is padding
//   points        (m,) int32              closes in points
//   anchors       (n,) int64, or null     positions in both, in any order; null: first_anchor, first_anchor + 1, …
//   first_anchor, n   int64
//   history, forward, samples, hold   int32   L, F, K, hold
//   eps           float64
//   T, R, I       (L + F,) float64 or more   the contract's tables, for counts up to L + F - 1
//   E             (21,) float64
//   library       (n,) int32, or null     whose mu and sigma quantise the window's path, -1: none, it becomes zeros; null:
//                                         those of library 0
//   mu, sigma     (libraries, 3K) float64, or null with quantised
// Out, value v of window w at [v * n + w]:
//   initial, damped   (3, n) float64      H, C, S
//   lam           (n,) float64            lambda
//   potential     (n,) float64            points
//   counts        (3, n) int32            NULL, FLIP, RUPTURE of the whole window
//   settled_at    (n,) int32              step
//   converged     (n,) uint8              0 or 1
//   rupture_collapse   (n,) uint8         0 or 1
//   path          (3K, n) float32, or null   by step, then H, C, S
//   quantised     (ceil(3K / 4), n) int32, or null: nothing is quantised; see quantise.cuh
//   norm          (n,) int32, or null with quantised   the quantised path's dot product with itself
//
// Several series may lie one after the other in bits and points. A window reads bits anchor - L + 1 … anchor + F and points
// anchor … anchor + F, which must lie in its series: nothing is checked here.
#include "quantise.cuh"
#include "window.cuh"

struct Metrics {
    double h, c, s;
};

struct Tables {
    const double* __restrict__ t;
    const double* __restrict__ r;
    const double* __restrict__ i;
};

__device__ __forceinline__ double clamp(double value, double low, double high) {
    return value < low ? low : value > high ? high : value;
}

__device__ __forceinline__ Metrics measure(const Tables& table, int n, int n1, int n2) {
    const double sum = (table.t[n - n1 - n2] + table.t[n1]) + table.t[n2];
    const double h = clamp((table.t[n] - sum) * table.r[n], 0.05, 1.0);
    const double flip = double(n1) * table.i[n], rupture = double(n2) * table.i[n];
    const double raw = (0.6 * (1.0 - h) + 0.33 * (1.0 - rupture)) + 0.21 * (1.0 - flip);
    return {h, clamp(1.1 * (raw * raw), 0.0, 1.0), 1.0 - rupture};
}

__device__ __forceinline__ double damped_toward(double d, double m, double a) { return d + a * (m - d); }

// FLIP and RUPTURE among the `events` pairs of bits from `start` on.
__device__ __forceinline__ void count_events(const u64* __restrict__ bits, i64 start, int events, int& n1, int& n2) {
    for (int k = 0; k < events; k += 64) {
        const u64 left = bits_from(bits, start + k), right = bits_from(bits, start + k + 1);
        const u64 mask = events - k >= 64 ? ~0ull : (1ull << (events - k)) - 1;
        n1 += __popcll((left ^ right) & mask);
        n2 += __popcll(left & right & mask);
    }
}

__device__ __forceinline__ double decay(double lambda, const double* __restrict__ E) {
    double e = E[20];
#pragma unroll
    for (int k = 19; k >= 0; --k) e = e * lambda + E[k];
    return 1.0 / e;
}

__device__ __forceinline__ void store_metrics(double* __restrict__ out, i64 n, i64 w, const Metrics& m) {
    out[w] = m.h;
    out[n + w] = m.c;
    out[2 * n + w] = m.s;
}

extern "C" __global__ void qfh(
    const u64* __restrict__ bits, const int* __restrict__ points, const i64* __restrict__ anchors, i64 first_anchor,
    i64 n, int history, int forward, int samples, int hold, double eps, const double* __restrict__ T,
    const double* __restrict__ R, const double* __restrict__ I, const double* __restrict__ E,
    const int* __restrict__ library, const double* __restrict__ mu, const double* __restrict__ sigma,
    double* __restrict__ initial, double* __restrict__ damped, double* __restrict__ lam, double* __restrict__ potential,
    int* __restrict__ counts, int* __restrict__ settled_at, u8* __restrict__ converged,
    u8* __restrict__ rupture_collapse, float* __restrict__ path, int* __restrict__ quantised, int* __restrict__ norm) {
    const Tables table = {T, R, I};
    const int stride = forward / samples;
    FOR_EACH(w, n) {
        const i64 anchor = anchor_of(anchors, first_anchor, w);
        int events = history - 1, n1 = 0, n2 = 0;
        count_events(bits, anchor - events, events, n1, n2);
        Metrics d = measure(table, events, n1, n2);
        store_metrics(initial, n, w, d);
        const double lambda = clamp(0.3 * d.h + 0.2 * (1.0 - d.c), 0.01, 1.0);
        const double x = decay(lambda, E), a = 1.0 - x;
        lam[w] = lambda;

        const int scale = library ? library[w] : 0;
        RowPacker row(quantised ? quantised + w : nullptr, n);
        int quiet = 0, settled = 0, value = 0, until_sample = stride;
        u64 last = 0, now = 0;
        for (int s = 1; s <= forward; ++s) {
            if (((s - 1) & 63) == 0) {
                last = bits_from(bits, anchor + s - 1);
                now = bits_from(bits, anchor + s);
            }
            n1 += int((last ^ now) & 1);
            n2 += int(last & now & 1);
            last >>= 1;
            now >>= 1;
            const Metrics m = measure(table, ++events, n1, n2);
            const Metrics next = {damped_toward(d.h, m.h, a), damped_toward(d.c, m.c, a), damped_toward(d.s, m.s, a)};
            const bool at_rest = (fabs(next.h - d.h) < eps) & (fabs(next.c - d.c) < eps) & (fabs(next.s - d.s) < eps);
            d = next;
            quiet = at_rest ? quiet + 1 : 0;
            if (settled == 0 && (quiet >= hold || s == forward)) {
                settled = s;
                converged[w] = quiet >= hold;
                store_metrics(damped, n, w, d);
            }
            if (--until_sample == 0) {
                until_sample = stride;
                const float sample[3] = {float(d.h), float(d.c), float(d.s)};
#pragma unroll
                for (int v = 0; v < 3; ++v, ++value) {
                    if (path) path[value * n + w] = sample[v];
                    if (quantised) {
                        const i64 of = i64(scale) * 3 * samples + value;
                        row.add(scale < 0 ? 0 : quantised_value(sample[v], mu[of], sigma[of]));
                    }
                }
            }
        }
        if (quantised) {
            row.finish();
            norm[w] = row.norm;
        }
        settled_at[w] = settled;

        double v = 0.0;
        const double price = double(points[anchor]);
        for (int j = forward; j >= 1; --j) v = (v + (double(points[anchor + j]) - price)) * x;
        potential[w] = v;

        counts[w] = events - n1 - n2;
        counts[n + w] = n1;
        counts[2 * n + w] = n2;
        rupture_collapse[w] = double(n2) * I[events] >= 0.5;
    }
}
