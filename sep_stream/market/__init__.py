"""What happens in a market: events, instruments, and how both travel.

The codecs are imported from their modules, `avro`, `bulk_avro` and `decode`: they bring fastavro and Numba, which
those who only name a timeframe or an instrument should not wait for.
"""

from sep_stream.market.events import NULL, EventBatch, Kind, Reason
from sep_stream.market.instruments import Instrument, Instruments
from sep_stream.market.partitioner import partition_for
from sep_stream.market.timeframes import TIMEFRAMES

__all__ = [
    "NULL",
    "TIMEFRAMES",
    "EventBatch",
    "Instrument",
    "Instruments",
    "Kind",
    "Reason",
    "partition_for",
]
