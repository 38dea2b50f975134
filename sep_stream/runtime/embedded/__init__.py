"""The embedded stack: real servers, on loopback, in a data folder."""

from sep_stream.runtime.embedded.connect import EmbeddedConnect
from sep_stream.runtime.embedded.daemon import Part, PartStatus
from sep_stream.runtime.embedded.kafka import EmbeddedKafka
from sep_stream.runtime.embedded.postgres import EmbeddedPostgres
from sep_stream.runtime.embedded.registry import EmbeddedRegistry
from sep_stream.runtime.embedded.stack import OPTIONAL_PARTS, EmbeddedStack

__all__ = [
    "OPTIONAL_PARTS",
    "EmbeddedConnect",
    "EmbeddedKafka",
    "EmbeddedPostgres",
    "EmbeddedRegistry",
    "EmbeddedStack",
    "Part",
    "PartStatus",
]
