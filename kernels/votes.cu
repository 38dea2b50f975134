// What the matches say: sep-metrics/1, section 7. One thread per query.
//
// place(cosine_in, row_in, n_queries, k, first_row, parts, part, cosine_out, row_out)
//
//   cosine_in, row_in     (n_queries, k) float64, int32   the matches in one part of a library, as best_blocks wrote them
//   n_queries     int64
//   k             int32
//   first_row     int32                   of the part, in the library
//   parts, part   int32                   how many there are, and which this is
// Out:
//   cosine_out, row_out   (n_queries, parts, k)   [:, part] alone is written: rows counted from the library's first
//
// votes(cosine, row, n_queries, k, outcome, named, p_up, expected, weight, match_cosine, match_row)
//
//   cosine, row   (n_queries, k) float64, int32   the matches, best first; -1 where there are fewer
//   n_queries     int64
//   k             int32
//   outcome       (rows,) int32           points
//   named         int32                   matches that a score names
// Out:
//   p_up          (n_queries,) float64    before calibration; 0.5 without weight
//   expected      (n_queries,) float64    points; 0 without weight
//   weight        (n_queries,) float64
//   match_cosine, match_row   (n_queries, named) float64, int32   the first of the matches; 0 and -1 where there are fewer
//
// gates(damped, converged, rupture_collapse, qbsa_collapse, n, coherence_min, stability_margin_min, failed)
//
//   damped        (3, n) float64          and the flags (n,) uint8, as qfh.cu and qbsa.cu wrote them
//   n             int64
//   coherence_min, stability_margin_min   float64
// Out:
//   failed        (n,) uint8              what of the gate fails: bit 1 coherence, 2 stability, 3 converged, 4 rupture
//                                         collapse, 5 QBSA collapse; bit 0, confidence, is 0: it is known later
#include "window.cuh"

extern "C" __global__ void place(
    const double* __restrict__ cosine_in, const int* __restrict__ row_in, i64 n_queries, int k, int first_row, int parts,
    int part, double* __restrict__ cosine_out, int* __restrict__ row_out) {
    FOR_EACH(at, n_queries * k) {
        const i64 to = (at / k * parts + part) * k + at % k;
        cosine_out[to] = cosine_in[at];
        row_out[to] = row_in[at] < 0 ? -1 : row_in[at] + first_row;
    }
}

extern "C" __global__ void votes(
    const double* __restrict__ cosine, const int* __restrict__ row, i64 n_queries, int k,
    const int* __restrict__ outcome, int named, double* __restrict__ p_up, double* __restrict__ expected,
    double* __restrict__ weight, double* __restrict__ match_cosine, int* __restrict__ match_row) {
    FOR_EACH(query, n_queries) {
        double weight_sum = 0.0, up_sum = 0.0, move_sum = 0.0;
        for (int rank = 0; rank < k; ++rank) {
            const int found = row[query * k + rank];
            if (found < 0) break;
            const double c = cosine[query * k + rank] > 0.0 ? cosine[query * k + rank] : 0.0;
            const double w = c * c, move = double(outcome[found]);
            weight_sum += w;
            up_sum += w * (move > 0.0 ? 1.0 : move < 0.0 ? 0.0 : 0.5);
            move_sum += w * move;
        }
        p_up[query] = (up_sum + 1.0) / (weight_sum + 2.0);
        expected[query] = weight_sum != 0.0 ? move_sum / weight_sum : 0.0;
        weight[query] = weight_sum;
        for (int rank = 0; rank < named; ++rank) {
            match_cosine[query * named + rank] = rank < k ? cosine[query * k + rank] : 0.0;
            match_row[query * named + rank] = rank < k ? row[query * k + rank] : -1;
        }
    }
}

extern "C" __global__ void gates(
    const double* __restrict__ damped, const u8* __restrict__ converged, const u8* __restrict__ rupture_collapse,
    const u8* __restrict__ qbsa_collapse, i64 n, double coherence_min, double stability_margin_min,
    u8* __restrict__ failed) {
    FOR_EACH(w, n) {
        const double coherence = damped[n + w], stability = damped[2 * n + w];
        failed[w] = u8(!(coherence >= coherence_min) << 1 | !(fabs(stability - 0.5) >= stability_margin_min) << 2 |
                       !converged[w] << 3 | (rupture_collapse[w] != 0) << 4 | (qbsa_collapse[w] != 0) << 5);
    }
}
