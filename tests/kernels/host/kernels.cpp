// All kernels as a shared library.
#include "cuda_on_host.h"

#include "nearest.cu"
#include "qbsa.cu"
#include "qfh.cu"
#include "quantise.cu"

LAUNCHED_BY(launch_qfh, qfh)
LAUNCHED_BY(launch_qbsa, qbsa)
LAUNCHED_BY(launch_quantise, quantise)
LAUNCHED_BY(launch_best_rows, best_rows)
LAUNCHED_BY(launch_best_blocks, best_blocks)
