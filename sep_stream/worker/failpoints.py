"""Places where a test can kill or hold up the process, to show that nothing is lost there.

`SEP_FAILPOINT=NAME:N` kills the process (SIGKILL) the N-th time that it reaches NAME; `NAME:N:stall=SECONDS` holds up
the thread that reached it instead. Unset, it costs a comparison.
"""

from __future__ import annotations

import os
import signal
import time

_NAME, _COUNT, _ACTION = [*os.environ.get("SEP_FAILPOINT", "").split(":"), "", ""][:3]
_left = int(_COUNT or 1)


def reach(name: str) -> None:
    """The process is at the place called `name`."""
    global _left
    if name == _NAME:
        _left -= 1
        if _left == 0:
            _act()


def _act() -> None:
    if _ACTION:
        time.sleep(float(_ACTION.removeprefix("stall=")))
    else:
        os.kill(os.getpid(), signal.SIGKILL)
