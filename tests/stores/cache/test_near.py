"""Values held near a thread, on a real Redis: as new as Redis's, gone when they expire, and never shown unconfirmed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sep_stream.errors import DependencyError, InputError
from sep_stream.runtime.embedded import EmbeddedRedis
from sep_stream.runtime.embedded import redis as embedded
from sep_stream.runtime.embedded.ports import free_ports
from sep_stream.stores.cache import Cache
from sep_stream.stores.cache import near as holding
from sep_stream.stores.cache.connection import TIMEOUT_S
from sep_stream.stores.cache.near import Near
from sep_stream.stores.cache.values import signal_fields
from sep_stream.stores.cache.writer import CacheWriter, Entry
from tests.stores.cache.conftest import put_in_place, settings_of
from tests.stores.cache.described import signal_record
from tests.stores.cache.test_cache import LEFT_S, NAMES, admin, price, url_of
from tests.waiting import PATIENCE_S, StandingClock, slow_bound_s, until

pytestmark = pytest.mark.integration

EUR, JPY = (name.removeprefix("price:") for name in NAMES)


@pytest.fixture
def near(redis_server: EmbeddedRedis, prefix: str) -> Cache:
    return Cache(settings_of(redis_server, prefix), near=True)


@pytest.fixture
def told_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held for good, if Redis tells of no change."""
    monkeypatch.setattr(holding, "SILENCE_S_MAX", 3_600.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StandingClock:
    """The clock by which values are held: no machine is too slow for it."""
    clock = StandingClock()
    monkeypatch.setattr(holding, "time", clock)
    return clock


@contextmanager
def silent(server: EmbeddedRedis, near: Cache) -> Iterator[None]:
    """Stop the server in its tracks, and let the thread's connection wait for it shortly."""
    pid = server.status().pid
    assert pid is not None
    connection = own(near).connection
    patience_s = connection.socket_timeout
    os.kill(pid, signal.SIGSTOP)
    try:
        connection.socket_timeout = 0.3
        connection._sock.settimeout(0.3)
        yield
    finally:
        connection.socket_timeout = patience_s
        os.kill(pid, signal.SIGCONT)


def own(near: Cache) -> Any:
    """What this thread holds."""
    assert near._near is not None
    return near._near.own()


def await_told(near: Cache) -> None:
    """Wait until something that Redis told lies in this thread's socket."""
    assert own(near)._poll.poll(PATIENCE_S * 1_000)


@pytest.fixture
def deaf(told_alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Redis tells is heard with its next answer alone, as if it were under way until then."""
    monkeypatch.setattr(Near, "_take_in", lambda self: self.connection.connect())


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """One that may be killed."""
    server = EmbeddedRedis(tmp_path)
    server.start(lambda message: None)
    yield server
    server.stop()


def time_us(cache: Cache, instrument: str = EUR) -> int | None:
    value = cache.price(instrument)
    return None if value is None else value.event_time_us


def asked(server: EmbeddedRedis) -> int:
    """How often Redis was asked for a value to be held: nothing else wants a PTTL."""
    told: Any = admin(server).info("commandstats")
    return int(told.get("cmdstat_pttl", {"calls": 0})["calls"])


def test_a_held_value_is_what_redis_has_and_costs_it_nothing(
    redis_server: EmbeddedRedis, prefix: str, sound: CacheWriter, near: Cache, told_alone: None
) -> None:
    expires_ms = int(time.time() + LEFT_S) * 1_000
    signal = Entry("signal:EUR/USD:M5", 1, 42, expires_ms, signal_fields(signal_record(), 42))
    sound.write([price(NAMES[0], 5, 7, bid="1.099999999"), signal])
    plain = Cache(settings_of(redis_server, prefix))

    def read(cache: Cache) -> Any:
        signals = cache.signals([(EUR, "M5"), (EUR, "M1")])
        return cache.price(EUR), cache.prices([JPY, EUR]), cache.signal(EUR, "M5"), signals

    assert read(near) == read(plain)
    before = asked(redis_server)
    assert all(read(near) == read(near) for _ in range(50))
    assert asked(redis_server) == before
    assert read(near) == read(plain)
    sound.write([price(NAMES[0], 6, 8)])
    until(lambda: time_us(near) == 6)
    assert asked(redis_server) == before + 1


def test_only_what_is_missing_is_asked_for(
    redis_server: EmbeddedRedis, sound: CacheWriter, near: Cache, told_alone: None
) -> None:
    near.price(EUR)
    before = asked(redis_server)
    assert near.prices([EUR, JPY, "GBP/USD", JPY]) == {EUR: None, JPY: None, "GBP/USD": None}
    assert near.prices([EUR, JPY, "GBP/USD"]) == {EUR: None, JPY: None, "GBP/USD": None}
    assert asked(redis_server) == before + 3  # one is named twice


def test_without_a_word_of_redis_for_a_second_it_is_asked(
    redis_server: EmbeddedRedis, sound: CacheWriter, near: Cache, clock: StandingClock
) -> None:
    sound.write([price(NAMES[0], 1, 1), price(NAMES[1], 2, 1)])
    near.prices([EUR, JPY])
    before = asked(redis_server)
    clock.now_s += 1.0
    assert (time_us(near), time_us(near, JPY)) == (1, 2)
    assert asked(redis_server) == before
    clock.now_s += 0.1
    assert time_us(near) == 1
    assert time_us(near, JPY) == 2
    assert asked(redis_server) == before + 1  # its answer vouches for what else is held


def test_what_changed_is_asked_for_ahead_if_it_was_shown(
    redis_server: EmbeddedRedis, sound: CacheWriter, near: Cache, told_alone: None
) -> None:
    sound.write([price(NAMES[0], 1, 1)])
    near.prices([EUR, JPY])
    before = asked(redis_server)

    def asked_with_another_get() -> bool:
        near.price(JPY)
        return asked(redis_server) == before + 1

    sound.write([price(NAMES[0], 2, 2)])
    until(asked_with_another_get)

    def has_answer() -> bool:  # taken in with gets of another
        return near.price(JPY) is None and own(near)._held[NAMES[0]].until_s > time.monotonic()

    until(has_answer)
    assert time_us(near) == 2
    sound.write([price(NAMES[0], 3, 3)])
    before += 1
    until(asked_with_another_get)
    until(has_answer)
    for k in (4, 5):  # of these it is not asked for ahead, as it was not shown
        sound.write([price(NAMES[0], k, k)])
        time.sleep(0.05)
        near.price(JPY)
        near.price(JPY)
    assert asked(redis_server) == before + 1
    until(lambda: time_us(near) == 5)


def test_one_get_asks_ahead_for_few(
    redis_server: EmbeddedRedis, sound: CacheWriter, near: Cache, told_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "AHEAD_MAX", 3)
    instruments = [f"N{k}" for k in range(10)]
    near.prices([JPY, *instruments])
    before = asked(redis_server)
    sound.write([price(f"price:{instrument}", 1, 1) for instrument in instruments])
    until(lambda: near.price(JPY) is None and asked(redis_server) == before + 3)
    for _ in range(5):
        near.price(JPY)
    assert asked(redis_server) == before + 3
    assert {value and value.event_time_us for value in near.prices(instruments).values()} == {1}


@pytest.mark.parametrize("is_hash", [True, False])
def test_what_something_else_wrote_is_not_told_to_who_asks_for_another(
    redis_server: EmbeddedRedis, prefix: str, sound: CacheWriter, near: Cache, told_alone: None, is_hash: bool
) -> None:
    near.prices([EUR, JPY])
    key = f"cache:{{{prefix}}}:price:EUR/USD"
    admin(redis_server).hset(key, mapping={"price": "much"}) if is_hash else admin(redis_server).set(key, "no hash")
    await_told(near)
    for _ in range(10):
        assert near.price(JPY) is None
        time.sleep(0.01)
    until(lambda: near.price(JPY) is None and not own(near)._awaited)
    with pytest.raises((InputError, DependencyError), match=r"price:EUR/USD is none|WRONGTYPE"):
        near.price(EUR)
    assert near.price(JPY) is None


def test_what_was_absent_is_seen_once_it_is_written(sound: CacheWriter, near: Cache, told_alone: None) -> None:
    assert near.price(EUR) is None
    sound.write([price(NAMES[0], 1, 1)])
    until(lambda: time_us(near) == 1)


def test_an_emptied_server_is_seen(
    redis_server: EmbeddedRedis, sound: CacheWriter, near: Cache, told_alone: None
) -> None:
    sound.write([price(NAMES[0], 1, 1)])
    assert time_us(near) == 1
    admin(redis_server).flushall()
    until(lambda: near.price(EUR) is None)


def test_a_cache_made_anew_is_seen(sound: CacheWriter, near: Cache, told_alone: None) -> None:
    sound.write([price(NAMES[0], 1, 1)])
    assert near.prices([EUR, JPY]).keys() == {EUR, JPY}
    put_in_place(sound, price(NAMES[1], 3, 3))
    until(lambda: [time_us(near, instrument) for instrument in (EUR, JPY)] == [None, 3])


def test_thousands_of_changes_before_an_answer_are_taken_in(sound: CacheWriter, near: Cache, deaf: None) -> None:
    instruments = [f"N{k}" for k in range(2 * sys.getrecursionlimit())]
    put_in_place(sound, *(price(f"price:{instrument}", 1, 1) for instrument in instruments))
    near.prices(instruments)
    put_in_place(sound, *(price(f"price:{instrument}", 2, 1) for instrument in instruments))
    assert near.price(EUR) is None
    assert {value and value.event_time_us for value in near.prices(instruments).values()} == {2}


def test_values_of_one_call_are_of_one_moment(sound: CacheWriter, near: Cache, deaf: None) -> None:
    for k in range(20):
        near.price(EUR)
        sound.write([price(name, k, k) for name in NAMES])
        near.price("GBP/USD" if k % 2 else JPY)
        sound.write([price(name, k, k + 1) for name in NAMES])
        found = near.prices(["AUD/USD", EUR, f"N{k}", JPY])
        assert found[EUR] is not None
        assert found[JPY] is not None
        assert (found[EUR].offset, found[JPY].offset) == (k + 1, k + 1)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.sampled_from(NAMES), min_size=1, max_size=2)),
        st.tuples(st.sampled_from(["swap", "flush", "cut", "read", "read one"]), st.just([])),
    ),
    min_size=4,
    max_size=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_after_anything_that_happens_what_is_near_is_what_redis_has(
    redis_server: EmbeddedRedis, prefix: str, told_alone: None, happens: list[tuple[str, list[str]]]
) -> None:
    own = settings_of(redis_server, prefix)
    writer, near, plain = CacheWriter(own, "log"), Cache(own, near=True), Cache(own)
    put_in_place(writer)
    for k, (what, names) in enumerate(happens):
        if what == "write":
            writer.write([price(name, k, k) for name in names])
        elif what == "swap":
            put_in_place(writer, price(NAMES[k % 2], k, k))
        elif what == "flush":
            admin(redis_server).flushall()
            put_in_place(writer)
        elif what == "cut":
            admin(redis_server).client_kill_filter(_type="normal", skipme=True)
        elif what == "read one":
            near.price(EUR)
        else:
            until(lambda: near.prices([EUR, JPY]) == plain.prices([EUR, JPY]))
    until(lambda: near.prices([EUR, JPY]) == plain.prices([EUR, JPY]))


def test_nobody_sees_an_older_value_after_a_newer(sound: CacheWriter, near: Cache, told_alone: None) -> None:
    stop = threading.Event()
    reads: list[tuple[list[int], list[int]]] = []

    def read(instruments: list[str]) -> None:
        found, gets = [-1], [0]
        reads.append((found, gets))
        while not stop.is_set():
            value = near.prices(instruments)[EUR]
            gets[0] += 1
            if value is not None and value.event_time_us != found[-1]:
                found.append(value.event_time_us)
        until(lambda: time_us(near) == newest)

    def enough() -> bool:
        """Has each reader seen some of the values, and each of them more than once on average?"""
        return len(reads) == 3 and all(gets[0] > len(found) > 10 for found, gets in reads)

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read, instruments) for instruments in ([EUR], [EUR, JPY], [JPY, EUR])]
        newest, deadline_s = 0, time.monotonic() + PATIENCE_S
        try:
            while newest < 1_500 or (not enough() and time.monotonic() < deadline_s):
                newest += 1
                sound.write([price(NAMES[newest % 2], newest, 0)])
            newest += 1
            sound.write([price(NAMES[0], newest, 0)])
        finally:
            stop.set()
        for reader in readers:
            reader.result()
    assert enough()
    assert all(found == sorted(found) for found, _ in reads)


def test_a_value_is_gone_the_moment_that_it_is_gone_from_redis(
    redis_server: EmbeddedRedis, prefix: str, sound: CacheWriter, near: Cache, deaf: None
) -> None:
    plain = Cache(settings_of(redis_server, prefix))
    before = asked(redis_server)
    rounds, often_shown, left_s = 0, 0, 0.1
    while often_shown < 10:
        sound.write([price(NAMES[0], rounds, rounds, left_s=left_s)])
        near.price(JPY)  # with its answer, what was told of the other
        shown = 0
        while plain.price(EUR) is not None:
            shown += near.price(EUR) is not None
        assert near.price(EUR) is None
        near.close()
        rounds += 1
        often_shown += shown > 20
        if shown <= 20:  # too slow a machine for so short a time
            left_s *= 2
            assert left_s < PATIENCE_S
    assert asked(redis_server) - before < rounds * 20  # held until milliseconds before


def test_a_killed_server_that_comes_back_with_other_values_is_seen_at_once(
    own_server: EmbeddedRedis, told_alone: None
) -> None:
    own = settings_of(own_server, "sep.")
    put_in_place(CacheWriter(own, "log one"), price(NAMES[0], 9, 9), price(NAMES[1], 9, 9))
    near = Cache(own, near=True)
    assert time_us(near) == 9
    pid = own_server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not answers(lambda: near.price(EUR)))  # long before an hour of silence is over
    own_server.start(lambda message: None)
    put_in_place(CacheWriter(own, "log two"), price(NAMES[0], 3, 3))
    assert time_us(near) == 3
    assert near.price(JPY) is None
    CacheWriter(own, "log two").write([price(NAMES[0], 4, 4)])
    until(lambda: time_us(near) == 4)


def test_a_reader_waits_two_seconds_for_a_server_that_is_silent(
    redis_server: EmbeddedRedis, prefix: str, sound: CacheWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    near = Cache(settings_of(redis_server, prefix), near=True)
    assert own(near).connection.socket_timeout == own(near).connection.socket_connect_timeout == TIMEOUT_S == 2.0


def test_a_connection_that_fell_silent_shows_nothing_after_a_second(
    own_server: EmbeddedRedis, clock: StandingClock
) -> None:
    writer = CacheWriter(settings_of(own_server, "sep."), "log")
    put_in_place(writer, price(NAMES[0], 1, 1), price(NAMES[1], 1, 1))
    near = Cache(url_of(own_server, "read"), near=True)
    near.prices([EUR, JPY])
    writer.write([price(NAMES[1], 2, 2)])  # told, and heard too late to vouch for anything
    near.prices([EUR])
    with silent(own_server, near):
        clock.now_s += 1.0
        assert time_us(near) == 1
        clock.now_s += 0.1
        begun_s = time.monotonic()
        for _ in range(2):
            with pytest.raises(DependencyError, match="does not answer"):
                near.price(EUR)
        assert time.monotonic() - begun_s < slow_bound_s(2)
    assert time_us(near) == 1
    assert time_us(near, JPY) == 2


def test_what_was_told_long_ago_vouches_for_nothing(own_server: EmbeddedRedis, clock: StandingClock) -> None:
    """A thread that slept takes in what came while it did; the network may have gone since."""
    writer = CacheWriter(settings_of(own_server, "sep."), "log")
    put_in_place(writer, price(NAMES[0], 1, 1), price(NAMES[1], 1, 1))
    near = Cache(url_of(own_server, "read"), near=True)
    near.prices([EUR, JPY])
    writer.write([price(NAMES[1], 2, 2)])
    await_told(near)
    with silent(own_server, near):
        clock.now_s += 1.1
        with pytest.raises(DependencyError, match="does not answer"):
            near.price(EUR)


def test_an_answer_that_was_asked_for_ahead_and_did_not_come_is_waited_for(
    own_server: EmbeddedRedis, clock: StandingClock
) -> None:
    writer = CacheWriter(settings_of(own_server, "sep."), "log")
    put_in_place(writer, price(NAMES[0], 1, 1), price(NAMES[1], 1, 1))
    near = Cache(url_of(own_server, "read"), near=True)
    near.prices([EUR, JPY])
    writer.write([price(NAMES[0], 2, 2)])
    await_told(near)
    with silent(own_server, near):
        assert time_us(near, JPY) == 1
        with pytest.raises(DependencyError, match="does not answer"):
            near.price(EUR)
    assert time_us(near) == 2


def test_threads_hold_values_of_their_own(
    redis_server: EmbeddedRedis, sound: CacheWriter, near: Cache, told_alone: None
) -> None:
    sound.write([price(NAMES[0], 1, 1)])
    both, before = threading.Barrier(2, timeout=PATIENCE_S), asked(redis_server)

    def read(number: int) -> None:
        assert time_us(near) == 1
        if both.wait() == 0:
            assert asked(redis_server) == before + 2
            sound.write([price(NAMES[0], 2, 2)])
        until(lambda: time_us(near) == 2)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(read, range(2)))


def _in_a_fork(near: Cache, server: EmbeddedRedis, result: Any) -> None:
    before = asked(server)
    found = time_us(near)
    result.send((found, asked(server) - before))
    until(lambda: time_us(near) == 2)
    result.send(True)


def test_a_forked_process_begins_anew(
    redis_server: EmbeddedRedis, sound: CacheWriter, near: Cache, told_alone: None
) -> None:
    sound.write([price(NAMES[0], 1, 1)])
    assert time_us(near) == 1
    ours, its = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(near, redis_server, its))
    child.start()
    assert ours.poll(PATIENCE_S)
    assert ours.recv() == (1, 1)
    before = asked(redis_server)
    assert time_us(near) == 1
    assert asked(redis_server) == before
    sound.write([price(NAMES[0], 2, 2)])
    until(lambda: time_us(near) == 2)
    assert ours.poll(PATIENCE_S)
    assert ours.recv() is True
    child.join(PATIENCE_S)


def test_no_more_than_the_most_are_held(sound: CacheWriter, near: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "NAMES_MAX", 3)
    instruments = [f"N{k}" for k in range(10)]
    sound.write([price(f"price:{instrument}", k, k) for k, instrument in enumerate(instruments)])
    reader: Any = near._near.own()  # type: ignore[union-attr]
    for k, instrument in enumerate(instruments):
        assert time_us(near, instrument) == k
        assert len(reader._held) <= 3
    for some in (instruments, instruments[8:] + instruments[:2], instruments):
        assert [value and f"N{value.event_time_us}" for value in near.prices(some).values()] == some
        assert len(reader._held) <= 3


def test_what_something_else_wrote_is_told_each_time_and_not_held(
    redis_server: EmbeddedRedis, prefix: str, sound: CacheWriter, near: Cache, told_alone: None
) -> None:
    key = f"cache:{{{prefix}}}:price:EUR/USD"
    admin(redis_server).hset(key, mapping={"price": "much"})
    for _ in range(2):
        with pytest.raises(InputError, match=r"the cache's price:EUR/USD is none"):
            near.price(EUR)
    admin(redis_server).delete(key)
    admin(redis_server).set(key, "no hash")
    with pytest.raises(DependencyError, match="WRONGTYPE"):
        near.price(EUR)
    sound.write([price(NAMES[0], 1, 1)])
    until(lambda: time_us(near) == 1)


def test_updates_tell_what_is_not_near_yet(sound: CacheWriter, near: Cache, deaf: None) -> None:
    sound.write([price(NAMES[0], 1, 1)])
    assert time_us(near) == 1
    sound.write([price(NAMES[0], 2, 2)])
    assert time_us(near) == 1
    updates = near.updates()
    assert next(updates).event_time_us == 2
    updates.close()


def test_a_closed_one_opens_again(sound: CacheWriter, near: Cache, deaf: None) -> None:
    sound.write([price(NAMES[0], 1, 1)])
    assert time_us(near) == 1
    near.close()
    sound.write([price(NAMES[0], 2, 2)])
    near.price(JPY)
    assert time_us(near) == 2


def test_a_role_that_may_not_track_is_told_each_time(
    redis_server: EmbeddedRedis, prefix: str, sound: CacheWriter
) -> None:
    rights = [right for right in embedded._RIGHTS["read"].split() if right != "+client|tracking"]
    admin(redis_server).execute_command("ACL", "SETUSER", "old", "reset", "on", ">secret", *rights)
    url = url_of(redis_server, "read", user="old", password="secret")
    assert Cache(url, prefix).price(EUR) is None
    near = Cache(url, prefix, near=True)
    for _ in range(2):
        with pytest.raises(
            DependencyError, match=r"does not let user 'old' do this .*client\|tracking.*docs/stores\.md"
        ):
            near.price(EUR)


@pytest.mark.parametrize("command", ["HELLO", "CLIENT"])
def test_a_server_that_cannot_tell_of_changes_is_told_without_the_password(tmp_path: Path, command: str) -> None:
    """One that hides a command answers as one of before the command's time."""
    [port] = free_ports(1)
    if command == "HELLO" and not embedded._of_machine():
        pytest.skip("the wheel's server asks for a login first; this needs a redis-server of the machine")
    program = [*embedded._of_machine(), *embedded._of_wheel()][0].path
    (tmp_path / "redis.conf").write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsave ''\nrequirepass secret\nrename-command {command} ''\n"
    )
    with psutil.Popen([program, tmp_path / "redis.conf"], stdout=-3) as process:
        try:
            url = f"redis://default:secret@127.0.0.1:{port}"
            until(lambda: answers(lambda: Cache(url).price(EUR)))
            near = Cache(url, near=True)
            for _ in range(2):
                with pytest.raises(DependencyError, match=r"needs RESP3 and CLIENT TRACKING.*without near") as told:
                    near.price(EUR)
                assert "secret" not in str(told.value)
                assert told.value.__cause__ is None
        finally:
            process.kill()


def answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except DependencyError:
        return False
    return True
