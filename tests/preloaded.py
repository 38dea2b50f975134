"""Imported once by the process that `tests.forked` forks from: all that commands import, compiled."""

import pkgutil
from importlib import import_module

from sep_stream.runtime.numba_cache import configure_numba_cache

configure_numba_cache()  # before anything imports Numba

import sep_stream.cli  # noqa: E402
from sep_stream.worker.runner import ALL_STAGES  # noqa: E402
from sep_stream.worker.warm_up import warm_up  # noqa: E402

for module in pkgutil.iter_modules(sep_stream.cli.__path__):
    import_module(f"sep_stream.cli.{module.name}")
warm_up(ALL_STAGES)
