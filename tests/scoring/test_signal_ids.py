from __future__ import annotations

from uuid import NAMESPACE_URL, UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from sep_stream.scoring import pattern_id, signal_id, trade_id

MODEL = "ab" * 32


def test_ids_are_those_of_the_contract() -> None:
    namespace = uuid5(NAMESPACE_URL, "sep-metrics/1")
    signal = signal_id(MODEL, "EUR/USD", "M1", 1_329_862_800)
    assert signal == str(uuid5(namespace, f"signal|{MODEL}|EUR/USD|M1|1329862800"))
    assert pattern_id(MODEL, "EUR/USD", "M1", 0) == str(uuid5(namespace, f"pattern|{MODEL}|EUR/USD|M1|0"))
    assert trade_id(signal) == str(uuid5(namespace, f"trade|{signal}"))
    assert UUID(signal).version == 5


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_gives_the_standard_librarys_id(name: str) -> None:
    assert trade_id(name) == str(uuid5(uuid5(NAMESPACE_URL, "sep-metrics/1"), f"trade|{name}"))
