"""How Faust's consumers log in, from the settings."""

from __future__ import annotations

import faust

from sep_stream.runtime.kafka_config import ssl_context, uses_sasl, uses_tls
from sep_stream.runtime.settings import Settings


def faust_credentials(settings: Settings) -> faust.Credentials | None:
    """None where the broker asks for none. Raises ConfigurationError for files that can't be used."""
    context = ssl_context(settings) if uses_tls(settings) else None
    if uses_sasl(settings):
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=settings.password(),
            ssl_context=context,
            mechanism=settings.sasl_mechanism,
        )
    return None if context is None else faust.SSLCredentials(context)
