// All kernels as a shared library.
#include "cuda_on_host.h"

#include "by_row.cu"
#include "nearest.cu"
#include "qbsa.cu"
#include "qfh.cu"
#include "quantise.cu"
#include "votes.cu"

LAUNCHED_BY(launch_qfh, qfh)
LAUNCHED_BY(launch_qbsa, qbsa)
LAUNCHED_BY(launch_quantise, quantise)
LAUNCHED_BY(launch_best_rows, best_rows)
LAUNCHED_BY(launch_best_blocks, best_blocks)
LAUNCHED_BY(launch_by_row_4, by_row_4)
LAUNCHED_BY(launch_by_row_8, by_row_8)
LAUNCHED_BY(launch_place, place)
LAUNCHED_BY(launch_votes, votes)
LAUNCHED_BY(launch_gates, gates)
