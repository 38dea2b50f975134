"""The tables of sep-metrics/1, section 4: exactly rounded from 50 decimal digits, so that no libm enters."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

_DIGITS: Final = 50
_FACTORIALS: Final = 21


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Read-only float64 tables; index 0 of `r` and `i` is 0 and never used.

    t: (m + 1,) m log2 m · r: (m + 1,) 1 / (n log2 3) · i: (m + 1,) 1 / n · e: (21,) 1 / k!
    """

    t: npt.NDArray[np.float64]
    r: npt.NDArray[np.float64]
    i: npt.NDArray[np.float64]
    e: npt.NDArray[np.float64]


@lru_cache(maxsize=16)
def tables(largest: int) -> Tables:
    """Tables for counts up to `largest`."""
    with localcontext() as context:
        context.prec = _DIGITS
        ln_2 = Decimal(2).ln()
        log2_3 = Decimal(3).ln() / ln_2
        counts = [Decimal(n) for n in range(1, largest + 1)]
        t = [n * (n.ln() / ln_2) for n in counts]
        r = [1 / (n * log2_3) for n in counts]
        i = [1 / n for n in counts]
        e = [Decimal(1)]
        for k in range(1, _FACTORIALS):
            e.append(e[-1] / k)
    return Tables(_from_zero(t), _from_zero(r), _from_zero(i), _rounded(e))


def _from_zero(values: list[Decimal]) -> npt.NDArray[np.float64]:
    return _rounded([Decimal(0), *values])


def _rounded(values: list[Decimal]) -> npt.NDArray[np.float64]:
    array = np.array([float(value) for value in values], np.float64)
    array.flags.writeable = False
    return array
