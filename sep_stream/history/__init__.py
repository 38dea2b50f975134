"""The log as history: bulk reads."""

from sep_stream.history.event_log import EventLog
from sep_stream.history.span import Span

__all__ = ["EventLog", "Span"]
