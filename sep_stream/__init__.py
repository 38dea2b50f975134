"""Market data on Kafka turned into tested, repeatable signals.

What is exported here is the public API; the rest may change. A name is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sep_stream.backtest import Backtest
    from sep_stream.convert import MarketDataConverter
    from sep_stream.history import EventLog, Span
    from sep_stream.market import EventBatch, Kind
    from sep_stream.metrics import compute_metrics
    from sep_stream.runtime.settings import Settings
    from sep_stream.runtime.topology import Topology
    from sep_stream.scoring import Model, PathLibrary, score
    from sep_stream.sources.publisher import DeliveryError
    from sep_stream.sources.tick_producer import TickProducer
    from sep_stream.stores.cache import Cache

__all__ = [
    "Backtest",
    "Cache",
    "DeliveryError",
    "EventBatch",
    "EventLog",
    "Kind",
    "MarketDataConverter",
    "Model",
    "PathLibrary",
    "Settings",
    "Span",
    "TickProducer",
    "Topology",
    "compute_metrics",
    "score",
]

_MODULES: Final = {
    "Backtest": "backtest",
    "Cache": "stores.cache",
    "DeliveryError": "sources.publisher",
    "EventBatch": "market",
    "EventLog": "history",
    "Kind": "market",
    "MarketDataConverter": "convert",
    "Model": "scoring",
    "PathLibrary": "scoring",
    "Settings": "runtime.settings",
    "Span": "history",
    "TickProducer": "sources.tick_producer",
    "Topology": "runtime.topology",
    "compute_metrics": "metrics",
    "score": "scoring",
}
_ENGINE_TAKERS: Final = {"Backtest", "compute_metrics", "score"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sep_stream.runtime.numba_cache import configure_numba_cache

    configure_numba_cache()  # before anything imports Numba
    if name in _ENGINE_TAKERS:
        from sep_stream.gpu import offer_engines

        offer_engines()
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
