"""The embedded Redis: comes back with what it held, and lets each role do its work alone."""

from __future__ import annotations

import re
import socket
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.certificates import Authority
from sep_stream.runtime.embedded import EmbeddedRedis
from sep_stream.runtime.embedded import redis as embedded
from sep_stream.runtime.private_files import write_private
from sep_stream.runtime.security_folder import SERVER_NAMES
from tests.waiting import bear_with_servers, until

pytestmark = pytest.mark.integration


def quiet(message: str) -> None:
    """Progress is not looked at."""


def client(login: dict[str, Any], **values: Any) -> redis.Redis:
    login = {"ssl": "ssl_ca_certs" in login, "retry": Retry(NoBackoff(), 0), "protocol": 2} | login | values
    return redis.Redis(**login, decode_responses=True)


@pytest.fixture(autouse=True, scope="module")
def slow_machine() -> Iterator[None]:
    """Servers are waited for, however few processors are left to them."""
    with pytest.MonkeyPatch.context() as patch:
        bear_with_servers(patch)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("plain"))
    server.start(quiet)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    if not embedded._of_machine():
        pytest.skip("TLS needs a redis-server of the machine")
    server = EmbeddedRedis(tmp_path_factory.mktemp("secured"))
    server.start(quiet, secure=True)
    yield server
    server.stop()


def test_a_killed_server_comes_back_with_its_data_at_its_address(plain: EmbeddedRedis) -> None:
    address, pid = plain.start(quiet), plain.status().pid
    client(plain.login("cache")).set("cache:kept", "1")
    process = psutil.Process(pid)
    process.kill()
    process.wait(60)
    with pytest.raises(
        DependencyError, match=r"does not run; start it with `sep-stream up --with redis`.*SEP_REDIS_URL"
    ):
        plain.login("read")
    assert plain.start(quiet) == address
    assert client(plain.login("read")).get("cache:kept") == "1"
    until(lambda: plain.status().healthy)
    status = plain.status()
    assert (status.pid != pid, status.healthy, status.address) == (True, True, address)


def test_what_runs_is_left_running_and_not_wiped(plain: EmbeddedRedis) -> None:
    before = plain.status()
    assert plain.start(quiet) == before.address
    assert plain.status() == before
    with pytest.raises(DependencyError, match="Redis runs; stop it first"):
        plain.wipe()


REFUSED = {
    "read": ("SET cache:x 1", "DEL cache:x", "HSET cache:x a 1", "PUBLISH cache:x 1", "EVAL return 0", "GET other",
             "FLUSHALL", "KEYS *", "CONFIG GET *", "SUBSCRIBE other"),
    "cache": ("FLUSHALL", "FLUSHDB", "SET other 1", "GET other", "KEYS *", "SCAN 0", "CONFIG GET *", "ACL LIST",
              "PUBLISH other 1", "SHUTDOWN", "FUNCTION LIST", "SUBSCRIBE cache:x"),
}  # fmt: skip


@pytest.mark.parametrize(("role", "command"), [(role, command) for role in REFUSED for command in REFUSED[role]])
def test_a_role_is_refused_what_is_not_its_work(plain: EmbeddedRedis, role: str, command: str) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        client(plain.login(role)).execute_command(*command.split())


def test_the_stage_may_write_and_readers_see_it(plain: EmbeddedRedis) -> None:
    assert client(plain.login("cache")).hset("cache:y", mapping={"price": "1.5"}) in (0, 1)
    assert client(plain.login("read")).hgetall("cache:y") == {"price": "1.5"}


def test_a_script_has_the_rights_of_its_role_alone(plain: EmbeddedRedis) -> None:
    with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)permission|acl"):
        client(plain.login("cache")).eval("return redis.call('FLUSHALL')", 0)


def test_nobody_is_let_in_without_a_password(plain: EmbeddedRedis) -> None:
    login = plain.login("read")
    with pytest.raises(redis.exceptions.AuthenticationError):
        client(login, username=None, password=None).get("cache:x")
    with pytest.raises(redis.exceptions.AuthenticationError):
        client(login, password="wrong").get("cache:x")


def test_no_password_is_on_a_command_line_or_in_a_file_that_others_can_read(plain: EmbeddedRedis) -> None:
    folder = Path(plain.status().log or "").parent
    passwords = [plain.login(role)["password"] for role in embedded.ROLES]
    line = " ".join(psutil.Process(plain.status().pid).cmdline())
    assert not any(password in line for password in passwords)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in (folder / "redis.conf", folder / "users.acl", *(folder / "passwords").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        if path.parent == folder:
            assert not any(password in path.read_text() for password in passwords)


@pytest.mark.parametrize("which", ["plain", "secured"])
def test_only_loopback_is_listened_to(which: str, request: pytest.FixtureRequest) -> None:
    status = request.getfixturevalue(which).status()
    listening = [c for c in psutil.Process(status.pid).net_connections() if c.status == "LISTEN"]
    assert [f"{c.laddr.ip}:{c.laddr.port}" for c in listening] == [status.address]


def test_a_secured_server_takes_tls_alone(secured: EmbeddedRedis) -> None:
    login = secured.login("read")
    assert client(login).ping()
    with pytest.raises(redis.exceptions.ConnectionError):
        client(login, ssl=False).ping()


def test_a_client_with_another_authority_trusts_it_not(secured: EmbeddedRedis, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(Authority.make().certificate_pem)
    with pytest.raises(redis.exceptions.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        client(secured.login("read"), ssl_ca_certs=str(tmp_path / "ca.pem")).ping()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(secured: EmbeddedRedis) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(secured.security.authority)
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    login = secured.login("read")
    with socket.create_connection((login["host"], login["port"])) as raw, pytest.raises(ssl.SSLError):
        old.wrap_socket(raw, server_hostname=login["host"])


def test_a_renewed_certificate_is_taken_up_by_the_running_server(secured: EmbeddedRedis) -> None:
    folder, pid = secured.security, secured.status().pid
    authority = Authority((folder.path / "ca.key").read_text(), folder.authority.read_text())
    write_private(folder.server, authority.issue(SERVER_NAMES, datetime.now(UTC) + timedelta(days=90)))
    address = secured.start(quiet, secure=True)
    host, _, port = address.rpartition(":")
    assert ssl.get_server_certificate((host, int(port))) in folder.server.read_text()
    assert secured.status().pid == pid


def test_a_folder_stays_as_it_began(plain: EmbeddedRedis, secured: EmbeddedRedis) -> None:
    with pytest.raises(ConfigurationError, match="began without security"):
        plain.start(quiet, secure=True)
    with pytest.raises(ConfigurationError, match="is secured; start Redis with `sep-stream up --secure"):
        secured.start(quiet)


def test_without_a_server_that_can_do_tls_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_of_machine", list)
    told = r"7 or newer with TLS; found: .*valkey-server 9.*; install `apt-get install redis-server`"
    with pytest.raises(ConfigurationError, match=told):
        EmbeddedRedis(tmp_path).start(quiet, secure=True)
    assert not (tmp_path / "redis").exists()


def test_a_server_that_is_too_old_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = embedded._Server(Path("/usr/bin/redis-server"), "6.0.16", tls=True)
    monkeypatch.setattr(embedded, "_of_machine", lambda: [old])
    monkeypatch.setattr(embedded, "_of_wheel", list)
    with pytest.raises(ConfigurationError, match=r"found: /usr/bin/redis-server 6\.0\.16; .*sep-stream\[embedded\]"):
        EmbeddedRedis(tmp_path).start(quiet)


@pytest.mark.parametrize("role", ["cache", "read"])
def test_the_page_names_the_rights_of_each_role(role: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "stores.md").read_text()
    told = re.search(rf"^user {role} on >… (.*?)(?=^user |^```)", page, re.DOTALL | re.MULTILINE)
    assert told is not None
    assert sorted(told[1].split()) == sorted(embedded._RIGHTS[role].split())
