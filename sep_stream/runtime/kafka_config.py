"""Client configurations from the settings."""

from __future__ import annotations

import ssl
from typing import Any

from sep_stream.errors import ConfigurationError
from sep_stream.runtime.private_files import refuse_if_public
from sep_stream.runtime.settings import Settings


def resolve_brokers(settings: Settings) -> str:
    """The bootstrap addresses: those set, else the embedded broker's. DependencyError if that does not run."""
    if settings.brokers:
        return settings.brokers
    from sep_stream.runtime.embedded import EmbeddedKafka

    return EmbeddedKafka(settings.data_dir).address()


def librdkafka(settings: Settings, **extra: Any) -> dict[str, Any]:
    """Configuration for confluent-kafka's clients. Their own log lines are silenced: errors are raised by us.

    Raises ConfigurationError for a password, key or certificate that can't be used.
    """
    config: dict[str, Any] = {
        "bootstrap.servers": resolve_brokers(settings),
        "client.id": "sep-stream",
        "log_level": 0,
        "topic.metadata.refresh.fast.interval.ms": 100,
        "reconnect.backoff.max.ms": 1_000,
    }
    if settings.security_protocol != "PLAINTEXT":
        config["security.protocol"] = settings.security_protocol
    if uses_sasl(settings):
        config |= {
            "sasl.mechanism": settings.sasl_mechanism,
            "sasl.username": settings.sasl_username,
            "sasl.password": settings.password(),
        }
    if uses_tls(settings):
        ssl_context(settings)  # says what is wrong with the files; librdkafka would not
        locations = {
            "ssl.ca.location": settings.ssl_ca_location,
            "ssl.certificate.location": settings.ssl_certificate_location,
            "ssl.key.location": settings.ssl_key_location,
            "ssl.key.password": settings.ssl_key_password and settings.ssl_key_password.get_secret_value(),
        }
        config |= {name: str(value) for name, value in locations.items() if value is not None}
        config["ssl.endpoint.identification.algorithm"] = "https"
    return config | extra


def uses_sasl(settings: Settings) -> bool:
    return settings.security_protocol.startswith("SASL")


def uses_tls(settings: Settings) -> bool:
    return settings.security_protocol.endswith("SSL")


def ssl_context(settings: Settings) -> ssl.SSLContext:
    """For clients that use Python's own TLS. It checks the broker's certificate and its name, always.

    Raises ConfigurationError for files that can't be used.
    """
    ca = settings.ssl_ca_location
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"ssl_ca_location {ca}: {_reason(error, 'a certificate in PEM')}") from error
    certificate, key = settings.ssl_certificate_location, settings.ssl_key_location
    if certificate is not None and key is not None:
        refuse_if_public(key)
        password = settings.ssl_key_password.get_secret_value() if settings.ssl_key_password else ""
        try:
            context.load_cert_chain(certificate, key, password)  # "" and not None: that would ask on the terminal
        except (OSError, ssl.SSLError) as error:
            expected = "a certificate and its key in PEM, and the key's password"
            told = f"ssl_certificate_location {certificate}, ssl_key_location {key}: {_reason(error, expected)}"
            raise ConfigurationError(told) from error
    return context


def _reason(error: OSError, expected: str) -> str:
    return f"expected {expected}" if isinstance(error, ssl.SSLError) else error.strerror or str(error)
