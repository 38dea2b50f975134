"""Sets of CPUs as taskset, numactl and hwloc write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

from sep_stream.errors import ConfigurationError

CPU_NUMBER_MAX: Final = 65_535
"""Eight times as many as Linux can be built for."""
EXPECTED: Final = "a list of CPUs such as 0-3,8 or a mask such as 0xff"
_RANGE: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5})(?::([0-9]{1,5}))?)?")
_MASK: Final = re.compile(r"0x[0-9a-f]+(?:,(?:0x[0-9a-f]{1,8})?)*", re.IGNORECASE)


def parse_cpus(text: str) -> frozenset[int]:
    """The CPUs of a list, "0-3,8" or "0-30:2" with a stride, or of a mask, "0xff", hwloc's with commas included.

    A number alone is a CPU, as for `taskset -c` and `numactl -C`. Raises ConfigurationError for anything else, and
    for a set without a CPU.
    """
    cpus = _of_mask(text) if _MASK.fullmatch(text) else frozenset(_of_list(text))
    if not cpus or max(cpus) > CPU_NUMBER_MAX:
        raise ConfigurationError(f"expected {EXPECTED}, of CPUs 0 to {CPU_NUMBER_MAX}, got {text!r}")
    return cpus


def format_cpus(cpus: Iterable[int]) -> str:
    """The shortest list of ranges: "0-3,8"."""
    ordered = sorted(cpus)
    firsts = [cpu for before, cpu in pairwise([-2, *ordered]) if cpu != before + 1]
    lasts = [cpu for cpu, after in pairwise([*ordered, -2]) if after != cpu + 1]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(firsts, lasts, strict=True))


def _of_mask(text: str) -> frozenset[int]:
    first, *words = text.lower().replace("0x", "").split(",")  # of 32 bits, the highest first, nothing for 0
    mask = int(first + "".join(word.zfill(8) for word in words), 16)
    return frozenset(bit for bit in range(min(mask.bit_length(), CPU_NUMBER_MAX + 2)) if mask >> bit & 1)


def _of_list(text: str) -> Iterator[int]:
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        first, last, stride = (int(number) for number in match.groups("1")) if match else (0, -1, 1)
        if match and match[2] is None:
            last = first
        if last < first or stride < 1:
            raise ConfigurationError(f"expected {EXPECTED}, got {text!r}")
        yield from range(first, last + 1, stride)
