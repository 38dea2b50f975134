"""Requests to the broker, and why they fail: the network, TLS, the login, or rights that are missing."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message

from sep_stream.errors import DependencyError
from sep_stream.runtime.kafka_config import librdkafka, resolve_brokers, ssl_context, uses_tls
from sep_stream.runtime.settings import Settings

FIRST_WAIT_S: Final = 1.0
"""After so long without an answer the reason is looked for; only where it may pass is it asked again, and longer."""
PROBE_S_MAX: Final = 2.0
_RETRY_S: Final = 0.1
_PASSING: Final = frozenset({
    KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR, KafkaError._UNKNOWN_PARTITION,
    KafkaError._DESTROY, KafkaError._DESTROY_BROKER,
})  # fmt: skip
"""The broker only has to finish something, such as choosing the leader of a new partition, or to come back: a client
that lost it knows no partition, and drops the requests to the address that it first knew it by."""
_SILENT: Final = frozenset({
    KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._ALL_BROKERS_DOWN,
})  # fmt: skip
LOGIN_ERRORS: Final = frozenset({
    KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.UNSUPPORTED_SASL_MECHANISM,
})  # fmt: skip
LOGIN_REMEDY: Final = "check sasl_username, sasl_mechanism and sasl_password (or sasl_password_file)"
_DENIALS: Final = frozenset({
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
})  # fmt: skip
_CERTIFICATE_REMEDY: Final = {
    10: "the broker needs a new one; `sep-stream up --secure` renews the embedded broker's",
    62: "name the broker as its certificate does, with --brokers",
    64: "name the broker as its certificate does, with --brokers",
}
"""By OpenSSL's codes: expired, another host, another address."""
_NAME_THE_AUTHORITY: Final = "ssl_ca_location has to name the authority that signed it"

T = TypeVar("T")


class Asker:
    """A client of librdkafka's whose requests fail with the broker's real reason.

    make: AdminClient or Consumer · config: beside that of the settings
    """

    def __init__(self, settings: Settings, make: Callable[[dict[str, Any]], Any], **config: Any) -> None:
        complaints: dict[int, str] = {}

        # librdkafka tells why connections fail beside the calls, which only say that nothing answered. This knows
        # nothing of `self`: a client in a cycle of references would be collected, and end, in any thread, its own too.
        def note(error: KafkaError) -> None:
            complaints.setdefault(error.code(), error.str())

        self._settings, self._complaints = settings, complaints
        self._group = config.get("group.id")
        self.client = make(librdkafka(settings, error_cb=note, **config))

    def ask(self, request: Callable[[float], T], timeout_s: float, about: str) -> T:
        """The answer to a request, which takes a timeout; asked again while the broker says that it can't tell yet.
        Time in which this process itself stood still is not the broker's and does not count.

        Raises DependencyError where the reason is certain: a refused certificate or login, or rights that are missing
        on what it is `about`, such as "topic 'sep.bars'". KafkaException for all else.
        """
        left_s, wait_s = timeout_s, min(FIRST_WAIT_S, timeout_s)
        while True:
            begun_s = time.monotonic()
            try:
                return request(wait_s)
            except KafkaException as error:
                if is_denial(error.args[0]):
                    raise DependencyError(denial(self._settings, about)) from error
                answered_s = time.monotonic()
                passing = self._may_pass(error)
                probed_s = min(time.monotonic() - answered_s, PROBE_S_MAX)
                left_s -= min(answered_s - begun_s, wait_s) + probed_s + _RETRY_S
                if not passing or left_s <= 0:
                    raise
            time.sleep(_RETRY_S)
            # A request that was made while the broker was away can miss its return: ask again, with growing patience.
            wait_s = max(_RETRY_S, min(2 * wait_s, left_s))

    def _may_pass(self, error: KafkaException) -> bool:
        """Raises DependencyError for what does not pass and has a certain reason."""
        code = error.args[0].code()
        if code in _PASSING:
            return True
        heard = self.client.poll(0)
        if isinstance(heard, Message) and heard.error() is not None:  # an AdminClient's poll gives a number
            self._complaints.setdefault(heard.error().code(), heard.error().str())
        fault = self._login_fault() or self._group_fault() or tls_fault(self._settings)
        if fault is not None:
            raise DependencyError(fault) from error
        return code in _SILENT

    def _login_fault(self) -> str | None:
        reason = next((text for code, text in self._complaints.items() if code in LOGIN_ERRORS), None)
        if reason is None:
            return None
        words = re.sub(r"^\w+://\S+: | \(after \d+ms in state \w+\)$", "", reason)
        broker, user = resolve_brokers(self._settings), self._settings.sasl_username
        return f"the broker at {broker} refuses user {user!r}: {words}; {LOGIN_REMEDY}"

    def _group_fault(self) -> str | None:
        if KafkaError.GROUP_AUTHORIZATION_FAILED not in self._complaints:
            return None
        return denial(self._settings, f"consumer group {self._group!r}")


def settled(future: Any, timeout_s: float) -> Any:
    """What an admin request gave; its client has to live until then. KafkaException if it failed, or gave nothing."""
    try:
        return future.result(timeout_s)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None


def is_denial(error: KafkaError) -> bool:
    """Does the broker refuse for lack of rights?"""
    return error.code() in _DENIALS


def denial(settings: Settings, about: str, operation: str = "use") -> str:
    """What is told where rights are missing. operation: Kafka's name of what may not be done, as far as known."""
    user = "an anonymous client" if settings.sasl_username is None else f"user {settings.sasl_username!r}"
    return (
        f"the broker at {resolve_brokers(settings)} does not let {user} {operation} {about}; "
        "`sep-stream topics acl show` tells an admin what the declared roles lack, and `topics acl apply` grants it"
    )


def tls_fault(settings: Settings) -> str | None:
    """What is wrong with TLS between us and the first broker that can be reached; None if nothing is, or none can."""
    for address in resolve_brokers(settings).split(","):
        host, _, port = address.rpartition(":")
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), PROBE_S_MAX)
        except (OSError, ValueError):
            continue
        with connection:
            return _handshake_fault(settings, connection, host.strip("[]"), address)
    return None


def _handshake_fault(settings: Settings, connection: socket.socket, host: str, address: str) -> str | None:
    wants_tls = uses_tls(settings)
    has_tls, refused = True, None
    try:
        ssl_context(settings).wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        refused = error
    except OSError:  # a server that is silent, or answers with something else
        has_tls = False
    if has_tls and not wants_tls:
        return (
            f"the broker at {address} speaks TLS, security_protocol is {settings.security_protocol}; set it to "
            "SASL_SSL, with sasl_username and a password, or to SSL. An embedded broker has such settings in "
            "DATA_DIR/security/ROLE.toml, for --config"
        )
    if wants_tls and not has_tls:
        return (
            f"the broker at {address} does not speak TLS, security_protocol is {settings.security_protocol}; "
            "name its TLS port with --brokers, or set security_protocol to what it speaks"
        )
    if wants_tls and refused is not None:
        remedy = _CERTIFICATE_REMEDY.get(refused.verify_code, _NAME_THE_AUTHORITY)
        return f"the broker at {address} is not trusted: its certificate is refused: {refused.verify_message}; {remedy}"
    return None
