"""Written and read on a real Redis: what is newer wins, whoever comes first, and nothing is lost by making it anew."""

from __future__ import annotations

import resource
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sep_stream.errors import ConfigurationError, DependencyError, InputError
from sep_stream.runtime.embedded import EmbeddedRedis
from sep_stream.runtime.embedded import redis as embedded
from sep_stream.runtime.embedded.ports import free_ports
from sep_stream.runtime.settings import Settings
from sep_stream.stores.cache import Cache, Direction, LatestPrice, Match
from sep_stream.stores.cache import reader as reading
from sep_stream.stores.cache import writer as writing
from sep_stream.stores.cache.keys import CacheKeys
from sep_stream.stores.cache.values import price_fields, signal_fields
from sep_stream.stores.cache.writer import CacheWriter, Entry, Lost, Unsound
from tests.stores.cache.conftest import put_in_place, settings_of
from tests.stores.cache.described import price_record, signal_record
from tests.waiting import PATIENCE_S, slow_bound_s, until

pytestmark = pytest.mark.integration

NAMES = ("price:EUR/USD", "price:USD/JPY")


def url_of(server: EmbeddedRedis, role: str, user: str | None = None, password: str | None = None) -> str:
    login = server.login(role)
    return f"redis://{user or role}:{password or login['password']}@{login['host']}:{login['port']}/0"


def admin(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(url_of(server, "admin"), decode_responses=True, protocol=2)


LEFT_S = 3_600
"""How long a value is kept that no test expects to expire."""


def price(name: str, time_us: int, offset: int, bid: str | None = None, left_s: float = LEFT_S) -> Entry:
    record = price_record(name.removeprefix("price:"), time_us, bid=bid)
    return Entry(name, time_us, offset, int((time.time() + left_s) * 1_000), price_fields(record, offset))


@pytest.fixture
def cache(redis_server: EmbeddedRedis, prefix: str) -> Cache:
    return Cache(settings_of(redis_server, prefix))


def test_a_price_is_read_as_it_was_written(sound: CacheWriter, cache: Cache) -> None:
    assert cache.price("EUR/USD") is None
    assert sound.write([price(NAMES[0], 5_000_000, 7, bid="1.099999999")]) == 1
    expected = LatestPrice("EUR/USD", 5_000_000, Decimal("1.1"), Decimal("1.099999999"), Decimal("1.2"), 7)
    assert cache.price("EUR/USD") == expected
    assert cache.prices(["USD/JPY", "EUR/USD"]) == {"USD/JPY": None, "EUR/USD": expected}
    assert cache.names() == ["price:EUR/USD"]


def test_what_is_null_now_is_not_left_from_before(sound: CacheWriter, cache: Cache) -> None:
    sound.write([price(NAMES[0], 1, 1, bid="1")])
    sound.write([price(NAMES[0], 2, 1)])
    found = cache.price("EUR/USD")
    assert found is not None
    assert (found.bid, found.ask) == (None, None)


def test_a_signal_is_read_as_it_was_written(sound: CacheWriter, cache: Cache) -> None:
    fields = signal_fields(signal_record(), 42)
    sound.write([Entry("signal:EUR/USD:M5", 1_700_000_300_000_000, 42, int(time.time() + LEFT_S) * 1_000, fields)])
    found = cache.signal("EUR/USD", "M5")
    assert found is not None
    assert (found.event_time_us, found.available_at_ms, found.offset) == (1_700_000_300_000_000, 1_700_000_300_000, 42)
    assert (found.direction, found.reason, found.confidence) == (Direction.BUY, None, 0.1 + 0.2)
    assert (found.gate_failed, found.matches) == (("spread",), (Match(3, 1_699_990_000, 0.75, -12),))
    assert (found.bar_open, found.bar_spread) == (Decimal("1.123456789"), None)
    assert cache.signals([("EUR/USD", "M5"), ("EUR/USD", "M1")]) == {("EUR/USD", "M5"): found, ("EUR/USD", "M1"): None}


versions = st.tuples(st.sampled_from(NAMES), st.integers(0, 3), st.integers(0, 3))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 1), st.lists(versions, min_size=1, max_size=4)),
        st.tuples(st.sampled_from(["begin", "fill", "swap"]), st.integers(0, 1), st.just([])),
    ),
    min_size=3,
    max_size=16,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([("begin", 0, []), ("write", 1, [(NAMES[0], 1, 1)]), ("swap", 0, [])])
@given(steps)
def test_in_any_interleaving_of_writers_and_rebuilds_the_newest_is_held(
    redis_server: EmbeddedRedis, log: list[tuple[str, int, list[Any]]]
) -> None:
    """Two writers whose records lie in one log; two rebuilds that fold it from where it stands after their `begin`.
    What readers see never goes back."""
    settings = settings_of(redis_server, f"h{time.monotonic_ns()}.")
    writers = [CacheWriter(settings, "log"), CacheWriter(settings, "log")]
    put_in_place(writers[0])
    look = Cache(settings)
    records: list[Entry] = []
    spaces: list[tuple[str, int] | None] = [None, None]
    seen = dict.fromkeys(NAMES, (-1, -1))
    for step, who, batch in log:
        if step == "write":
            entries = [price(name, time_us, offset) for name, time_us, offset in batch]
            records += entries
            newest: dict[str, Entry] = {}
            writing.keep_newest(newest, entries)
            writers[who].write(newest.values())
        elif step == "begin":
            space = None if spaces[who] else writers[who].begin()
            spaces[who] = spaces[who] if space is None else (space, len(records))
        elif (found := spaces[who]) is not None:
            space, end = found
            writers[who].fill(space, records[:end])
            if step == "swap":
                writers[who].swap(space)
                spaces[who] = None
        for name, value in zip(NAMES, look.prices(["EUR/USD", "USD/JPY"]).values(), strict=True):
            version = (-1, -1) if value is None else (value.event_time_us, value.offset)
            assert version >= seen[name], f"{name} went back"
            seen[name] = version
    for name in NAMES:
        assert seen[name] == max((e.version for e in records if e.name == name), default=(-1, -1))


def test_what_a_writer_writes_while_the_log_is_folded_outlives_the_swap(sound: CacheWriter, cache: Cache) -> None:
    sound.write([price(NAMES[0], 1, 1)])
    space = sound.begin()
    assert space is not None
    folded = [price(NAMES[0], 1, 1)]  # the log's end was taken here
    sound.write([price(NAMES[0], 9, 2), price(NAMES[1], 3, 3)])
    sound.fill(space, folded)
    assert sound.swap(space) == 2
    assert [p and p.event_time_us for p in cache.prices(["EUR/USD", "USD/JPY"]).values()] == [9, 3]


def test_racing_threads_leave_the_newest(redis_server: EmbeddedRedis, prefix: str, sound: CacheWriter) -> None:
    def write(who: int) -> None:
        writer = CacheWriter(settings_of(redis_server, prefix), "log one")
        for k in range(who, 400, 2):
            writer.write([price(NAMES[0], k, 0), price(NAMES[1], 400 - k, 0)])

    stop = threading.Event()
    found: list[int] = []

    def read() -> None:
        cache = Cache(settings_of(redis_server, prefix))
        while not stop.is_set():
            value = cache.price("EUR/USD")
            found.append(-1 if value is None else value.event_time_us)

    with ThreadPoolExecutor(3) as pool:
        reader = pool.submit(read)
        list(pool.map(write, range(2)))
        stop.set()
        reader.result()
    assert found == sorted(found)
    newest = Cache(settings_of(redis_server, prefix)).prices(["EUR/USD", "USD/JPY"])
    assert [p and p.event_time_us for p in newest.values()] == [399, 400]


def test_an_older_record_does_not_come_back_when_the_newer_has_expired(
    redis_server: EmbeddedRedis, prefix: str, sound: CacheWriter, cache: Cache
) -> None:
    sound.write([price(NAMES[0], 9, 9)])
    assert cache.price("EUR/USD") is not None
    admin(redis_server).pexpire(f"cache:{{{prefix}}}:{NAMES[0]}", 1)
    until(lambda: cache.price("EUR/USD") is None)
    assert sound.write([price(NAMES[0], 8, 99)]) == 0
    assert cache.price("EUR/USD") is None
    assert sound.write([price(NAMES[0], 10, 0)]) == 1
    assert cache.price("EUR/USD") is not None


def test_what_has_expired_before_it_is_written_is_not_shown(sound: CacheWriter, cache: Cache) -> None:
    assert sound.write([price(NAMES[0], 9, 9, left_s=-1)]) == 1
    assert cache.price("EUR/USD") is None
    assert cache.names() == [NAMES[0]]


def test_another_logs_older_times_and_offsets_are_not_kept_out(
    redis_server: EmbeddedRedis, prefix: str, sound: CacheWriter, cache: Cache
) -> None:
    sound.write([price(NAMES[0], 1_000, 50), price(NAMES[1], 1_000, 51)])
    new = CacheWriter(settings_of(redis_server, prefix), "log two")
    with pytest.raises(Unsound, match="another log"):
        new.write([price(NAMES[0], 5, 0)])
    put_in_place(new, price(NAMES[0], 5, 0))
    assert [p and p.event_time_us for p in cache.prices(["EUR/USD", "USD/JPY"]).values()] == [5, None]
    with pytest.raises(Unsound, match="another log"):
        sound.write([price(NAMES[0], 2_000, 52)])


def test_an_emptied_server_is_noticed_before_anything_is_written(
    redis_server: EmbeddedRedis, sound: CacheWriter, cache: Cache
) -> None:
    admin(redis_server).flushall()
    with pytest.raises(Unsound, match="empty"):
        sound.write([price(NAMES[0], 1, 1)])
    assert cache.price("EUR/USD") is None


def test_a_restarted_server_is_noticed_and_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have lost its last second."""
    server = EmbeddedRedis(tmp_path)
    server.start(lambda message: None)
    try:
        settings = settings_of(server, "sep.")
        writer, cache = CacheWriter(settings, "log"), Cache(settings)
        put_in_place(writer, price(NAMES[0], 1, 1))
        monkeypatch.setattr(writing, "FRESH_MS", 1_000)
        space = writer.begin()
        assert space is not None
        server.stop()
        with pytest.raises(DependencyError, match="does not answer"):
            cache.price("EUR/USD")
        server.start(lambda message: None)
        assert cache.price("EUR/USD") is not None
        with pytest.raises(Unsound, match="restarted"):
            writer.write([price(NAMES[0], 2, 2)])
        with pytest.raises(Lost):
            writer.swap(space)
        until(lambda: writer.begin() is not None)
    finally:
        server.stop()


def test_one_key_space_is_filled_at_a_time_and_given_up_without_a_sign(
    redis_server: EmbeddedRedis, prefix: str, sound: CacheWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = CacheKeys(prefix).fresh

    def left_ms() -> int:
        """How long the key space is still kept for its filler."""
        told: Any = admin(redis_server).pttl(fresh)
        return int(told)

    monkeypatch.setattr(writing, "FRESH_MS", 600_000)
    space = sound.begin()
    assert space is not None
    assert 0 < left_ms() <= 600_000
    assert sound.begin() is None
    monkeypatch.setattr(writing, "FRESH_MS", 1_200_000)
    sound.fill(space, ())  # a sign of life: it is kept for so long from now on
    assert 600_000 < left_ms() <= 1_200_000
    assert sound.begin() is None
    monkeypatch.setattr(writing, "FRESH_MS", 300)
    sound.fill(space, ())
    until(lambda: sound.begin() is not None)
    with pytest.raises(Lost):
        sound.fill(space, [price(NAMES[0], 1, 1)])


def test_a_swap_leaves_nothing_of_the_old_or_the_fresh_space(
    redis_server: EmbeddedRedis, prefix: str, sound: CacheWriter
) -> None:
    sound.write([price(NAMES[0], 1, 1), price(NAMES[1], 1, 1)])
    put_in_place(sound, price(NAMES[1], 1, 1))
    root = f"cache:{{{prefix}}}:"
    assert set(admin(redis_server).scan_iter(f"{root}*", 1_000)) == {
        f"{root}{n}" for n in ("price:USD/JPY", "versions", "state")
    }
    assert admin(redis_server).pttl(f"{root}versions") == -1
    assert 0 < admin(redis_server).pttl(f"{root}price:USD/JPY") <= LEFT_S * 1_000


def test_subscribers_hear_what_is_held_and_then_each_newer_value(sound: CacheWriter, cache: Cache) -> None:
    sound.write([price(NAMES[0], 1, 1)])
    updates = cache.updates()
    assert next(updates).event_time_us == 1
    sound.write([price(NAMES[0], 2, 1), price(NAMES[1], 7, 1)])
    sound.write([price(NAMES[0], 1, 9)])
    put_in_place(sound, price(NAMES[0], 3, 1), price(NAMES[1], 7, 1))
    assert [(v.instrument, v.event_time_us) for v in islice(updates, 3)] == [
        ("EUR/USD", 2), ("USD/JPY", 7), ("EUR/USD", 3)
    ]  # fmt: skip
    updates.close()


def test_subscribers_of_a_log_hear_the_next_one(redis_server: EmbeddedRedis, prefix: str, sound: CacheWriter) -> None:
    cache = Cache(settings_of(redis_server, prefix))
    sound.write([price(NAMES[0], 1_000, 1)])
    updates = cache.updates()
    assert next(updates).event_time_us == 1_000
    put_in_place(CacheWriter(settings_of(redis_server, prefix), "log two"), price(NAMES[0], 5, 0))
    assert next(updates).event_time_us == 5
    updates.close()


def test_a_subscriber_that_was_cut_off_hears_the_last_value(
    redis_server: EmbeddedRedis, sound: CacheWriter, cache: Cache
) -> None:
    sound.write([price(NAMES[0], 1, 1)])
    updates = cache.updates()
    assert next(updates).event_time_us == 1
    admin(redis_server).client_kill_filter(_type="pubsub")
    sound.write([price(NAMES[0], 2, 1)])
    assert next(updates).event_time_us == 2
    updates.close()


def test_what_something_else_wrote_is_told(redis_server: EmbeddedRedis, prefix: str, cache: Cache) -> None:
    admin(redis_server).hset(f"cache:{{{prefix}}}:price:EUR/USD", mapping={"price": "much"})
    with pytest.raises(InputError, match=r"the cache's price:EUR/USD is none: .*cache rebuild"):
        cache.price("EUR/USD")


def test_a_wrong_password_is_told_at_once_and_not_shown(redis_server: EmbeddedRedis) -> None:
    """It is tried once: not again and again while the user waits."""
    client = admin(redis_server)
    client.acl_log_reset()
    with pytest.raises(DependencyError, match=r"refuses the login of user 'read': .*SEP_REDIS_URL") as told:
        Cache(url_of(redis_server, "read", password="not-the-one")).price("EUR/USD")
    tries: Any = client.acl_log()
    assert [(entry["reason"], int(entry["count"])) for entry in tries] == [("auth", 1)]
    assert "not-the-one" not in str(told.value)


def test_a_reader_may_not_write(redis_server: EmbeddedRedis, prefix: str) -> None:
    settings = Settings.load(prefix=prefix, redis_url=url_of(redis_server, "read"))
    with pytest.raises(DependencyError, match=r"does not let user 'read' do this .*docs/stores\.md"):
        CacheWriter(settings, "log").write([price(NAMES[0], 1, 1)])


def test_no_server_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DependencyError, match=f"no cache: .*{tmp_path} does not run; .*up --with redis.*SEP_REDIS_URL"):
        Cache(Settings.load(data_dir=tmp_path))
    url = "redis://read:secret@127.0.0.1:1/0"
    with pytest.raises(DependencyError, match=r"Redis at 127\.0\.0\.1:1 does not answer .*up --with redis"):
        Cache(url).price("EUR/USD")
    monkeypatch.setattr(writing, "SILENCE_S_MAX", 0.5)
    begun_s = time.monotonic()
    with pytest.raises(DependencyError, match="does not answer") as told:
        CacheWriter(Settings.load(redis_url=url), "log").is_sound()
    assert 0.5 < time.monotonic() - begun_s < slow_bound_s(0.5)
    assert "(asked for 0 s)" in str(told.value)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://secret@h", "expected redis://USER:PASSWORD@HOST"),
        ("rediss://u:secret@h?ssl_cert_reqs=none", "would trust any server"),
        ("rediss://u:secret@h?ssl_check_hostname=false", "would trust any server"),
        ("rediss://u:secret@h?ssl_ca_certs=/nowhere", "ssl_ca_certs /nowhere: expected a certificate in PEM"),
    ],
)
def test_a_url_that_cannot_be_used_is_told_without_its_password(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as error:
        Cache(url)
    assert "secret" not in str(error.value)


def test_a_full_memory_is_told(redis_server: EmbeddedRedis, sound: CacheWriter) -> None:
    admin(redis_server).config_set("maxmemory", "1")
    try:
        with pytest.raises(DependencyError, match="has no memory left: raise its maxmemory"):
            sound.write([price(NAMES[0], 1, 1)])
    finally:
        admin(redis_server).config_set("maxmemory", "0")


def test_threads_and_forks_have_connections_of_their_own(sound: CacheWriter, cache: Cache) -> None:
    sound.write([price(name, k, k) for k, name in enumerate(NAMES)])

    def read(k: int) -> bool:
        return all(cache.price(("EUR/USD", "USD/JPY")[k % 2]).event_time_us == k % 2 for _ in range(200))  # type: ignore[union-attr]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


def test_updates_of_a_server_that_stays_away_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start(lambda message: None)
    try:
        settings = settings_of(server, "sep.")
        put_in_place(CacheWriter(settings, "log"), price(NAMES[0], 1, 1))
        updates = Cache(settings).updates()
        next(updates)
    finally:
        server.stop()
    monkeypatch.setattr(reading, "SILENCE_S_MAX", 0.5)
    with pytest.raises(DependencyError, match="does not answer"):
        next(updates)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose file may not grow, which it learns as it would of a full disk."""
    monkeypatch.setattr(writing, "SILENCE_S_MAX", PATIENCE_S)  # until it has started
    port, limit = free_ports(1)[0], 64 * 1024
    program = [*embedded._of_wheel(), *embedded._of_machine()][0].path
    command = [
        program,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        tmp_path,
        "--appendonly",
        "yes",
        "--save",
        "",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, restore_signals=False,  # SIGXFSZ stays ignored
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    ) as process:  # fmt: skip
        try:
            writer = CacheWriter(Settings.load(redis_url=f"redis://127.0.0.1:{port}"), "log")
            put_in_place(writer)
            with pytest.raises(DependencyError, match="can't write to its disk and takes no more: make room"):
                write_on(writer)
        finally:
            process.kill()


def write_on(writer: CacheWriter) -> None:
    for k in range(10_000):
        writer.write([price(NAMES[0], k, k)])
