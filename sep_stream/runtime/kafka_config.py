"""Client configurations from the settings."""

from __future__ import annotations

from typing import Any

from sep_stream.runtime.settings import Settings


def resolve_brokers(settings: Settings) -> str:
    """The bootstrap addresses: those set, else the embedded broker's. DependencyError if that does not run."""
    if settings.brokers:
        return settings.brokers
    from sep_stream.runtime.embedded import EmbeddedKafka

    return EmbeddedKafka(settings.data_dir).address()


def librdkafka(settings: Settings, **extra: Any) -> dict[str, Any]:
    """Configuration for confluent-kafka's clients. Their own log lines are silenced: errors are raised by us."""
    config: dict[str, Any] = {
        "bootstrap.servers": resolve_brokers(settings),
        "client.id": "sep-stream",
        "log_level": 0,
        "topic.metadata.refresh.fast.interval.ms": 100,
        "reconnect.backoff.max.ms": 1_000,
    }
    if settings.security_protocol != "PLAINTEXT":
        config["security.protocol"] = settings.security_protocol
    if settings.security_protocol.startswith("SASL"):
        config |= {
            "sasl.mechanism": settings.sasl_mechanism,
            "sasl.username": settings.sasl_username,
            "sasl.password": settings.sasl_password.get_secret_value() if settings.sasl_password else None,
        }
    if settings.ssl_ca_location:
        config["ssl.ca.location"] = str(settings.ssl_ca_location)
    return config | extra
