"""Places where a test can kill or hold up the process, to show that nothing is lost there.

`SEP_FAILPOINT=NAME:N` kills the process (SIGKILL) the N-th time that it reaches NAME; `NAME:N:stall=SECONDS` holds up
the thread that reached it instead. Unset, it costs a look at the environment.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

_reached: Counter[str] = Counter()


def reach(name: str) -> None:
    """The process is at the place called `name`."""
    failpoint = os.environ.get("SEP_FAILPOINT")
    if failpoint and failpoint.partition(":")[0] == name:
        _reached[name] += 1
        _, count, action = [*failpoint.split(":"), "", ""][:3]
        if _reached[name] == int(count or 1):
            _act(action)


def _act(action: str) -> None:
    if action:
        time.sleep(float(action.removeprefix("stall=")))
    else:
        os.kill(os.getpid(), signal.SIGKILL)
