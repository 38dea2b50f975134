"""Places where a test can kill the process, to show that nothing is lost there.

`SEP_FAILPOINT=NAME:N` kills the process (SIGKILL) the N-th time that it reaches NAME. Unset, it costs a comparison.
"""

from __future__ import annotations

import os
import signal

_NAME, _, _COUNT = os.environ.get("SEP_FAILPOINT", "").partition(":")
_left = int(_COUNT or 1)


def reach(name: str) -> None:
    """The process is at the place called `name`."""
    global _left
    if name == _NAME:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
