"""A coverage-guided fuzzer on the decoder as plain Python, whose branches it sees.

`uv run --group fuzz python -m tests.fuzz.guided -max_total_time=300`, with any of libFuzzer's options. It begins with
the inputs of `corpus`, and stops at the first that breaks a rule of `check`: to be put into `corpus`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ["NUMBA_DISABLE_JIT"] = "1"  # before Numba is imported

import atheris

with atheris.instrument_imports(include=["sep_stream.market.bulk_avro", "sep_stream.market.avro_bytes"]):
    from sep_stream.market import bulk_avro  # noqa: F401  imported here to be instrumented

from tests.fuzz import corpus, plain
from tests.fuzz.check import check


def try_input(data: bytes) -> None:
    name, value = corpus.value_of(data)
    check(name, [value])


def main() -> None:
    plain.watch()
    assert plain.sees_a_read_past_the_end(), "the watch sees nothing"
    folder = Path(tempfile.mkdtemp(prefix="sep-stream-fuzz-"))
    for k, data in enumerate(corpus.seeds()):
        (folder / f"seed-{k:03}").write_bytes(data)
    atheris.Setup([*sys.argv, f"-artifact_prefix={folder}/", str(folder)], try_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
