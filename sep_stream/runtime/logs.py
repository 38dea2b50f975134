"""Logs on stderr, ours and those of the libraries, on a console or as JSON."""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

import structlog

REPEATS_PER_LOGGER_S: Final = 1.0
"""A library may tell every attempt while a broker is away: of each of its loggers a line a second is enough."""


class _OncePerInterval(logging.Filter):
    """Lets a line of a logger through at most once an interval; errors always pass."""

    def __init__(self) -> None:
        super().__init__()
        self._last_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now_s = time.monotonic()
        if now_s - self._last_s.get(record.name, -REPEATS_PER_LOGGER_S) < REPEATS_PER_LOGGER_S:
            return False
        self._last_s[record.name] = now_s
        return True


def configure_logs(level: str, log_format: str) -> None:
    """level: debug, info, warning or error, of our own lines; libraries speak from warning on."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.processors.dict_tracebacks if log_format == "json" else _pass, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer])
    )  # fmt: skip
    handler.addFilter(_OncePerInterval())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))


def _pass(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return event
