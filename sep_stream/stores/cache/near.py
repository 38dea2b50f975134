"""What one thread holds near it of the cache, as long as Redis would tell of a change."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from select import POLLIN, poll
from ssl import SSLWantReadError
from typing import Any, Final

import hiredis
from redis import exceptions
from redis.exceptions import ResponseError

from sep_stream.errors import InputError
from sep_stream.stores.cache.values import Value, typed

NAMES_MAX: Final = 65_536
"""So many are held; one more, and all are forgotten."""
SILENCE_S_MAX: Final = 1.0
"""Since the last question that Redis answered: after it nothing is shown that Redis does not confirm."""
AHEAD_MAX: Final = 64
"""So many of those that changed are asked for ahead, with one get of others."""

_READ_BYTES: Final = 65_536
"""Above a TLS record, of which OpenSSL would else keep the rest where no poll sees it."""
_NOTHING: Final = object()

Outcome = Value | InputError | ResponseError | None


@dataclass(slots=True)
class _Held:
    """until_s: shown until then, on this machine's monotonic clock · was_shown: since it was asked for"""

    outcome: Outcome
    until_s: float
    was_shown: bool = False


class Near:
    """Values that were asked for over one connection, on which Redis tells, once, that one has changed.

    Its answers and what it tells come in order on that connection. What is held after all that has arrived was taken in
    is therefore what Redis held at one moment, and never goes back. What was shown and has changed is asked for with
    the next get of anything, which does not wait for the answer. For one thread.
    """

    def __init__(self, connection: Any, root: str) -> None:
        """connection: redis-py's, RESP3, for nothing else · root: of the keys"""
        self.connection = connection
        self._root = root
        self._held: dict[str, _Held] = {}
        self._changed: list[str] = []
        self._awaited: deque[tuple[str, float]] = deque()
        """What was asked for, and when."""
        self._half: list[Any] = []
        """Of the next answer, which are two replies."""
        self._confirmed_s = -math.inf
        self._socket: Any = None
        connection.register_connect_callback(self._track)

    def replies(self, names: Sequence[str]) -> list[Outcome]:
        """Of each name, and all of one moment. Raises redis-py's errors; the connection is then to be closed."""
        self._take_in()
        now_s = time.monotonic()
        is_silent = now_s - self._confirmed_s > SILENCE_S_MAX
        held = self._held
        missing = [
            name for name in names if is_silent or (of_name := held.get(name)) is None or now_s >= of_name.until_s
        ]
        found = self._found(names, missing, is_silent) if missing else {}
        outcomes = []
        for name in names:
            if (of_name := held.get(name)) is not None:
                of_name.was_shown = True
            outcomes.append(found[name] if name in found else held[name].outcome)
        return outcomes

    def values(self, names: Sequence[str], replies: list[Outcome]) -> list[Value | None]:
        """Raises InputError where something else was written."""
        found: list[Value | None] = []
        for outcome in replies:
            if isinstance(outcome, Exception):
                raise outcome
            found.append(outcome)
        return found

    def _found(self, names: Sequence[str], missing: Sequence[str], is_silent: bool) -> dict[str, Outcome]:
        """What is missing, and all where some that were held have changed meanwhile."""
        ahead = () if is_silent else {name for name, _ in self._awaited}
        asked = [name for name in missing if name not in ahead]
        found = self._answers(asked)
        if any(name not in self._held and name not in asked for name in names):
            found = self._answers(names)
        for name in names:
            outcome = found.get(name)
            if isinstance(outcome, ResponseError):
                raise outcome
        return found

    def _track(self, connection: Any) -> None:
        """On a connection that has just been made."""
        for of_the_last in (self._held, self._changed, self._awaited, self._half):
            of_the_last.clear()
        connection.send_command("CLIENT", "TRACKING", "ON")
        connection.read_response()
        self._socket = connection._sock
        self._poll = poll()
        self._poll.register(self._socket, POLLIN)
        self._reader = hiredis.Reader(
            exceptions.InvalidResponse, connection._parser.parse_error, "utf-8", "surrogateescape", _NOTHING
        )

    def _take_in(self) -> None:
        """What has arrived, without waiting for more; and ask for what changed."""
        if self._socket is None or self.connection._sock is not self._socket:
            self.connection.connect()
        while (message := self._message(wait=False)) is not _NOTHING:
            self._take(message)
        if self._changed:
            self._ask([name for name in self._changed if name not in self._held][:AHEAD_MAX])
            self._changed.clear()

    def _answers(self, names: Sequence[str]) -> dict[str, Outcome]:
        """To this question and those before it."""
        self._ask(names)
        found = {}
        while self._awaited:
            if answer := self._take(self._message(wait=True)):
                found[answer[0]] = answer[1]
        return found

    def _ask(self, names: Sequence[str]) -> None:
        if not names:
            return
        for name in names:
            if len(self._held) >= NAMES_MAX:
                self._held.clear()
            self._held[name] = _Held(None, -math.inf)  # gone again when the answer comes: it changed meanwhile
        asked_s = time.monotonic()
        self.connection.send_packed_command([b"".join(map(self._packed, names))], check_health=False)
        self._awaited.extend((name, asked_s) for name in names)

    def _packed(self, name: str) -> bytes:
        key = (self._root + name).encode()
        argument = b"$%d\r\n%b\r\n" % (len(key), key)
        return b"*2\r\n$4\r\nPTTL\r\n%b*2\r\n$7\r\nHGETALL\r\n%b" % (argument, argument)

    def _message(self, wait: bool) -> Any:
        """The next one. By redis-py it would take twice the time, and by recursion where Redis tells of thousands."""
        while (message := self._reader.gets()) is _NOTHING and (wait or self._poll.poll(0)):
            try:
                read = self._read(wait)
            except (BlockingIOError, SSLWantReadError):  # what came was TLS's own, or part of a record
                return _NOTHING
            except TimeoutError as error:
                raise exceptions.TimeoutError("Timeout reading from socket") from error
            except OSError as error:
                raise exceptions.ConnectionError(f"Error while reading from socket: {error}") from error
            if not read:
                raise exceptions.ConnectionError("Connection closed by server.")
            self._reader.feed(read)
        return message

    def _read(self, wait: bool) -> bytes:
        if not wait:
            self._socket.settimeout(0)
        try:
            read: bytes = self._socket.recv(_READ_BYTES)
        finally:
            if not wait:
                self._socket.settimeout(self.connection.socket_timeout)
        return read

    def _take(self, reply: Any) -> tuple[str, Outcome] | None:
        """A message; the name and its value where that makes an answer whole."""
        if isinstance(reply, hiredis.PushNotification):
            self._forget(reply[1])
            return None
        if isinstance(reply, exceptions.RedisError) and not isinstance(reply, ResponseError):
            raise reply
        self._half.append(reply)
        if len(self._half) < 2:
            return None
        left_ms, fields = self._half
        self._half.clear()
        name, asked_s = self._awaited.popleft()
        self._confirmed_s = asked_s
        outcome, until_s = _outcome(name, fields), -math.inf
        if isinstance(left_ms, ResponseError):
            outcome = left_ms
        elif not isinstance(outcome, Exception):  # negative: no value, or one that does not expire
            until_s = asked_s + left_ms / 1_000 if left_ms >= 0 else math.inf
        if name in self._held:
            self._held[name] = _Held(outcome, until_s)
        return name, outcome

    def _forget(self, keys: list[str] | None) -> None:
        if keys is None:  # the server was emptied
            self._held.clear()
        for key in keys or ():
            name = key.removeprefix(self._root)
            held = self._held.pop(name, None)
            if held is not None and held.was_shown:
                self._changed.append(name)


def _outcome(name: str, fields: Any) -> Outcome:
    if isinstance(fields, ResponseError):
        return fields
    try:
        return typed(name, fields) if fields else None
    except InputError as error:  # of another's name, it may be
        return error
