"""What `test_log_reader` can't ask: the library that is not there."""

from __future__ import annotations

import _ctypes

import pytest

from sep_stream.errors import DependencyError
from sep_stream.runtime.bulk_consumer import Library


def test_an_extension_module_without_librdkafka_is_told() -> None:
    with pytest.raises(DependencyError, match=r"_ctypes.*: expected confluent-kafka linked to a shared librdkafka"):
        Library(_ctypes.__file__)
