"""Certificates, and what is told where TLS fails: real handshakes with servers that are not to be trusted."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.asker import Asker, tls_fault
from sep_stream.runtime.certificates import Authority, end_of, ends_soon
from sep_stream.runtime.kafka_config import librdkafka, ssl_context
from sep_stream.runtime.settings import Settings
from tests.waiting import until

NOW = datetime.now(UTC)
NAMES = ["localhost", "127.0.0.1"]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str | None], str]]:
    """Listens with a key and certificate in PEM, or without TLS; gives the address."""
    with contextlib.ExitStack() as stack:

        def serve(pem: str | None) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            context = None
            if pem is not None:
                (tmp_path / "server.pem").write_text(pem)
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                context.load_cert_chain(tmp_path / "server.pem")
            threading.Thread(target=_accept, args=(listener, context), daemon=True).start()
            return f"127.0.0.1:{listener.getsockname()[1]}"

        yield serve


def _accept(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                connection.recv(1)
                connection.close()


def trusting(address: str, authority: Authority, folder: Path) -> Settings:
    (folder / "ca.pem").write_text(authority.certificate_pem)
    return Settings.load(brokers=address, security_protocol="SSL", ssl_ca_location=folder / "ca.pem")


def test_a_server_of_our_authority_is_trusted(
    authority: Authority, serve: Callable[[str | None], str], tmp_path: Path
) -> None:
    assert tls_fault(trusting(serve(authority.issue(NAMES)), authority, tmp_path)) is None


def test_what_it_signed_before_it_was_renewed_stays_good(
    authority: Authority, serve: Callable[[str | None], str], tmp_path: Path
) -> None:
    assert tls_fault(trusting(serve(authority.issue(NAMES)), authority.renewed(), tmp_path)) is None


@pytest.mark.parametrize(
    ("end", "names", "own", "told"),
    [
        (NOW - timedelta(days=1), NAMES, True, "certificate has expired; the broker needs a new one; .*up --secure"),
        (None, ["kafka.example"], True, "not valid for '127.0.0.1'.*name the broker as its certificate does"),
        (None, NAMES, False, "ssl_ca_location has to name the authority that signed it"),
    ],
    ids=["expired", "another host", "another authority"],
)
def test_a_certificate_that_is_refused_is_told_with_address_and_remedy(
    authority: Authority,
    serve: Callable[[str | None], str],
    tmp_path: Path,
    end: datetime | None,
    names: list[str],
    own: bool,
    told: str,
) -> None:
    """By librdkafka itself, which only does not say why."""
    address = serve((authority if own else Authority.make()).issue(names, end))
    asker = Asker(trusting(address, authority, tmp_path), AdminClient)
    with pytest.raises(DependencyError, match=f"the broker at {address} is not trusted: .*{told}"):
        asker.ask(lambda left_s: asker.client.list_topics(timeout=left_s), 6.0, "the cluster")

    def has_complained() -> bool:
        asker.client.poll(0)
        return KafkaError._SSL in asker._complaints

    until(has_complained)
    assert "certificate verify failed" in asker._complaints[KafkaError._SSL]


def test_a_server_without_tls_is_told(authority: Authority, serve: Callable[[str | None], str], tmp_path: Path) -> None:
    address = serve(None)
    assert str(tls_fault(trusting(address, authority, tmp_path))).startswith(
        f"the broker at {address} does not speak TLS, security_protocol is SSL; "
    )


def test_a_server_with_tls_is_told_to_a_client_without(
    authority: Authority, serve: Callable[[str | None], str]
) -> None:
    address = serve(authority.issue(NAMES))
    fault = tls_fault(Settings.load(brokers=address))
    assert str(fault).startswith(
        f"the broker at {address} speaks TLS, security_protocol is PLAINTEXT; set it to SASL_SS"
    )


def test_nobody_there_is_no_matter_of_tls() -> None:
    assert tls_fault(Settings.load(brokers="127.0.0.1:1")) is None


def test_every_client_checks_certificate_and_name(authority: Authority, tmp_path: Path) -> None:
    settings = trusting("localhost:1", authority, tmp_path)
    assert ssl_context(settings).check_hostname
    assert ssl_context(settings).verify_mode == ssl.CERT_REQUIRED
    config = librdkafka(settings)
    assert config["ssl.endpoint.identification.algorithm"] == "https"
    assert "enable.ssl.certificate.verification" not in config  # on, unless said otherwise


@pytest.mark.parametrize(("text", "told"), [(None, "No such file"), ("x", "expected a certificate in PEM")])
def test_an_authority_that_cannot_be_read_is_told(tmp_path: Path, text: str | None, told: str) -> None:
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError, match=f"ssl_ca_location {file}: {told}"):
        librdkafka(Settings.load(brokers="localhost:1", security_protocol="SSL", ssl_ca_location=file))


def test_a_clients_key_that_is_open_to_everybody_is_refused(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "client.pem"
    file.write_text(authority.issue(["client"]))
    own = {"ssl_certificate_location": file, "ssl_key_location": file}
    settings = Settings.load(brokers="localhost:1", security_protocol="SSL", **own)
    file.chmod(0o644)
    with pytest.raises(ConfigurationError, match=f"{file}: holds a secret and is open to every user"):
        librdkafka(settings)
    file.chmod(0o600)
    assert librdkafka(settings)["ssl.key.location"] == str(file)


def test_the_end_of_a_certificate_is_known(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "server.pem"
    for days, soon in ((29, True), (31, False)):
        end = (NOW + timedelta(days=days)).replace(microsecond=0)
        file.write_text(authority.issue(NAMES, end))
        assert (end_of(file), ends_soon(file)) == (end, soon)


def test_a_file_that_holds_no_certificate_is_told(tmp_path: Path) -> None:
    (tmp_path / "server.pem").write_text("-----BEGIN CERTIFICATE-----\nx")
    with pytest.raises(ConfigurationError, match=r"server\.pem: expected a certificate in PEM"):
        end_of(tmp_path / "server.pem")
