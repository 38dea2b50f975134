"""The sanitized build in a process of its own, under AddressSanitizer from its first instruction.

Each array is an allocation of its own there: a read or write beside it ends the process, with a report on stderr.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from tests.kernels.host.launch import Argument, Launcher


class SanitizerError(Exception):
    """What the sanitizer reported."""


@contextmanager
def sanitized_launcher(library: Path) -> Iterator[Callable[..., None]]:
    """Takes calls like those of a Launcher; raises SanitizerError where a kernel does what it must not."""
    preload = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = os.environ | {
        "LD_PRELOAD": preload.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, "-m", "tests.kernels.host.sanitized", str(library)]
    root = Path(__file__).resolve().parents[3]
    with (
        TemporaryFile() as report,
        subprocess.Popen(
            command, env=environment, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=report
        ) as child,
    ):

        def launch(kernel: str, grid: int, block: int, *args: Argument) -> None:
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                _send(child.stdin, (kernel, grid, block, args))
                after = pickle.load(child.stdout)
            except (EOFError, BrokenPipeError):
                child.wait()
                report.seek(0)
                raise SanitizerError(report.read().decode(errors="replace")) from None
            for ours, theirs in zip(args, after, strict=True):
                if isinstance(ours, np.ndarray) and ours.flags.writeable:
                    ours[...] = theirs

        yield launch


def _send(stream: IO[bytes], message: Any) -> None:
    pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def serve(library: Path) -> None:
    """Launch what comes in on stdin, until it ends."""
    launch = Launcher(library)
    while True:
        try:
            kernel, grid, block, args = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        copies = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in args]
        launch(kernel, grid, block, *copies)
        _send(sys.stdout.buffer, copies)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
