"""`BulkConsumer`: the records of a partition as columns, without a Python object for each.

confluent-kafka makes a message object of each record, which takes longer than all that is done with it here. So this
calls librdkafka itself, by its public C API, and compiled loops gather what it hands out. It is the library that
confluent-kafka has loaded, with the same configuration and protocol: docs/decisions/reading-in-bulk.md.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaError, KafkaException, cimpl
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from sep_stream.errors import DependencyError
from sep_stream.market.bulk_avro import VarColumn
from sep_stream.runtime.read_faults import ReadFault

_MESSAGE_DTYPE: Final = np.dtype(
    [
        ("err", "i4"),
        ("topic", "u8"),
        ("partition", "i4"),
        ("payload", "u8"),
        ("length", "u8"),
        ("key", "u8"),
        ("key_length", "u8"),
        ("offset", "i8"),
        ("private", "u8"),
    ],
    align=True,
)
"""`rd_kafka_message_t` of rdkafka.h; pointers and sizes are of 64 bits."""

_Pointer = ctypes.c_void_p
_Text = ctypes.c_char_p
_CONSUMER: Final = 1
_ERROR_TEXT_BYTES: Final = 512


class Library:
    """The functions used of librdkafka, found through an extension module that is linked to it. Raises DependencyError
    where it isn't."""

    def __init__(self, module_file: str) -> None:
        library = ctypes.CDLL(module_file)

        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = getattr(library, f"rd_kafka_{name}", None)
            if found is None:
                raise DependencyError(
                    f"{module_file}: expected confluent-kafka linked to a shared librdkafka, as its wheels are; "
                    f"there is no rd_kafka_{name}"
                )
            found.restype, found.argtypes = result, arguments
            return found

        size, whole = ctypes.c_size_t, ctypes.c_int
        self.conf_new = function("conf_new", _Pointer)
        self.conf_set = function("conf_set", whole, _Pointer, _Text, _Text, _Pointer, size)
        self.conf_destroy = function("conf_destroy", None, _Pointer)
        self.new = function("new", _Pointer, whole, _Pointer, _Pointer, size)
        self.last_error = function("last_error", whole)
        self.poll_set_consumer = function("poll_set_consumer", whole, _Pointer)
        self.list_new = function("topic_partition_list_new", _Pointer, whole)
        self.list_add = function("topic_partition_list_add", _Pointer, _Pointer, _Text, ctypes.c_int32)
        self.list_set_offset = function(
            "topic_partition_list_set_offset", whole, _Pointer, _Text, ctypes.c_int32, ctypes.c_int64
        )
        self.list_destroy = function("topic_partition_list_destroy", None, _Pointer)
        self.assign = function("assign", whole, _Pointer, _Pointer)
        self.queue_get_consumer = function("queue_get_consumer", _Pointer, _Pointer)
        self.consume_batch_queue = function("consume_batch_queue", ctypes.c_ssize_t, _Pointer, whole, _Pointer, size)
        self.message_errstr = function("message_errstr", _Text, _Pointer)
        self.message_destroy = ctypes.cast(function("message_destroy", None, _Pointer), _Pointer).value
        self.consumer_close = function("consumer_close", whole, _Pointer)
        self.queue_destroy = function("queue_destroy", None, _Pointer)
        self.destroy = function("destroy", None, _Pointer)


_library: Final = Library(cimpl.__file__)


@dataclass(frozen=True, slots=True)
class RecordColumns:
    """Records of one partition in offset order. offsets: (n,) int64 · keys, values: n rows of one buffer"""

    offsets: npt.NDArray[np.int64]
    keys: VarColumn
    values: VarColumn

    def __len__(self) -> int:
        return len(self.offsets)

    def before(self, stop: int) -> RecordColumns:
        """Those with an offset below `stop`."""
        rows = slice(int(np.searchsorted(self.offsets, stop)))
        return RecordColumns(self.offsets[rows], self.keys.take(rows), self.values.take(rows))


class BulkConsumer:
    """Reads a partition from an offset on, outside any consumer group; to be closed. One thread may use it at a time.

    config: as confluent-kafka's, of texts, numbers and truth values
    Raises KafkaException for a configuration that librdkafka refuses.
    """

    def __init__(self, config: Mapping[str, Any], topic: str, partition: int, start: int, records_max: int) -> None:
        self._topic = topic
        self._messages = np.zeros(records_max, np.uint64)
        self._client = _client(config)
        _library.poll_set_consumer(self._client)
        self._queue = _library.queue_get_consumer(self._client)
        name, assigned = topic.encode(), _library.list_new(1)
        _library.list_add(assigned, name, partition)
        _library.list_set_offset(assigned, name, partition, start)
        code = _library.assign(self._client, assigned)
        _library.list_destroy(assigned)
        if code:
            self.close()
            raise KafkaException(KafkaError(code))

    def fetch(self, timeout_s: float) -> tuple[RecordColumns, list[ReadFault]]:
        """What is there, waiting at most so long for the first of it: a plain call for many would wait it out."""
        queue, at = self._queue, self._messages.ctypes.data
        n = _library.consume_batch_queue(queue, round(timeout_s * 1000), at, 1)
        if n == 1 and len(self._messages) > 1:
            n += max(0, _library.consume_batch_queue(queue, 0, at + self._messages.itemsize, len(self._messages) - 1))
        return self._taken(self._messages[: max(0, n)])

    def close(self) -> None:
        _library.consumer_close(self._client)
        _library.queue_destroy(self._queue)
        _library.destroy(self._client)

    def _taken(self, messages: npt.NDArray[np.uint64]) -> tuple[RecordColumns, list[ReadFault]]:
        """The contents of messages, which are gone then."""
        n = len(messages)
        offsets, start = np.empty(n, np.int64), np.empty((2, n), np.int64)
        length, fault = np.empty((2, n), np.int32), np.empty(n, np.bool_)
        data = np.empty(_measure(messages, offsets, length, fault), np.uint8)
        faults = [_fault(int(message), self._topic) for message in messages[fault]] if fault.any() else []
        _move(messages, length, data, start, _library.message_destroy)
        if faults:
            offsets, start, length = offsets[~fault], start[:, ~fault], length[:, ~fault]
        keys, values = (VarColumn(data, start[k], length[k]) for k in range(2))
        return RecordColumns(offsets, keys, values), faults


def _client(config: Mapping[str, Any]) -> int:
    text = ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
    conf = _library.conf_new()
    for name, value in config.items():
        told = str(value).lower() if isinstance(value, bool) else str(value)
        if _library.conf_set(conf, name.encode(), told.encode(), text, len(text)):
            _library.conf_destroy(conf)
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG, text.value.decode()))
    client: int | None = _library.new(_CONSUMER, conf, text, len(text))
    if client is None:
        code = _library.last_error()
        _library.conf_destroy(conf)
        raise KafkaException(KafkaError(code, text.value.decode()))
    return client


def _fault(address: int, topic: str) -> ReadFault:
    message = np.frombuffer((ctypes.c_char * _MESSAGE_DTYPE.itemsize).from_address(address), _MESSAGE_DTYPE)[0]
    text = _library.message_errstr(address)
    error = KafkaError(int(message["err"]), text.decode(errors="replace") if text else None)
    about = topic if message["topic"] else None
    return ReadFault(error, about, int(message["partition"]), int(message["offset"]))


@intrinsic
def _pointer(_: Any, address: Any) -> Any:
    """An address as what `carray` takes."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(address), generated


@intrinsic
def _call(_: Any, function: Any, address: Any) -> Any:
    """Calls a C function, given by its address, with a pointer. As an argument the function does not end in Numba's
    cache, where its address would outlive it."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])
        return context.get_dummy_value()

    return types.void(function, address), generated


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _measure(messages: Any, offsets: Any, length: Any, fault: Any) -> int:
    """Fills the columns, key before value, -1 where it is null; the bytes of all keys and values."""
    total = 0
    for k in range(len(messages)):
        message = nb.carray(_pointer(messages[k]), 1, _MESSAGE_DTYPE)[0]
        fault[k] = message.err != 0
        offsets[k] = message.offset
        length[0, k] = message.key_length if message.key != 0 and not fault[k] else -1
        length[1, k] = message.length if message.payload != 0 and not fault[k] else -1
        total += max(0, length[0, k]) + max(0, length[1, k])
    return total


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _move(messages: Any, length: Any, data: Any, start: Any, destroy: int) -> None:
    """Copies keys and values out of the messages, and destroys these."""
    p = 0
    for k in range(len(messages)):
        message = nb.carray(_pointer(messages[k]), 1, _MESSAGE_DTYPE)[0]
        p = _copy(message.key, length[0, k], data, p, start, 0, k)
        p = _copy(message.payload, length[1, k], data, p, start, 1, k)
        _call(destroy, messages[k])


@nb.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _copy(address: int, size: int, data: Any, p: int, start: Any, column: int, row: int) -> int:
    start[column, row] = p
    if size > 0:
        data[p : p + size] = nb.carray(_pointer(address), size, np.uint8)
        return p + size
    return p
