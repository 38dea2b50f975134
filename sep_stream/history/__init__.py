"""The log as history: bulk reads."""

from sep_stream.history.event_log import EventLog

__all__ = ["EventLog"]
