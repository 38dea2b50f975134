// QBSA of many windows: sep-metrics/1, section 6. One thread per window. Apart from its inputs it shares nothing with
// qfh.cu, so the two can run side by side, each on a stream of its own.
//
// qbsa(bits, anchors, first_anchor, n, history, I, corrections, ratio, collapse)
//
//   bits, anchors, first_anchor, n, history   as in qfh.cu; a window reads positions anchor - L + 1 … anchor
//   I             (L,) float64 or more   the table of 1 / n
// Out:
//   corrections   (n,) int32
//   ratio         (n,) float64           corrections per probe
//   collapse      (n,) uint8             0 or 1
#include "window.cuh"

extern "C" __global__ void qbsa(
    const u64* __restrict__ bits, const i64* __restrict__ anchors, i64 first_anchor, i64 n, int history,
    const double* __restrict__ I, int* __restrict__ corrections, double* __restrict__ ratio,
    u8* __restrict__ collapse) {
    FOR_EACH(w, n) {
        const i64 start = anchor_of(anchors, first_anchor, w) - history + 1;
        int probes = 0, wrong = 0;
        for (int t = 8; t < history; t += 4, ++probes) {
            const unsigned seen = unsigned(bits_from(bits, start + t - 8) & 0x1ff);  // bits t - 8 … t
            const int ones = __popcll(seen & 0xff);
            const unsigned expected = ones >= 6 ? 1 : ones <= 2 ? 0 : seen >> 7 & 1;
            wrong += expected != seen >> 8;
        }
        corrections[w] = wrong;
        ratio[w] = double(wrong) * I[probes];
        collapse[w] = double(wrong) * I[probes] >= 0.6;
    }
}
