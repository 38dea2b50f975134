"""What Kafka Connect consists of: its own jars, the sink that writes to databases, the converter that reads Avro."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from sep_stream.runtime.archives import Archive, unpacked
from sep_stream.runtime.jars import (
    KAFKA,
    KAFKA_VERSION,
    Jars,
    Progress,
    cache_folder,
    embedded_extra,
    fetch_jars,
    fetch_sound,
    kept_files,
)

JDBC_SINK_VERSION: Final = "3.6.0.Final"
CONVERTER_VERSION: Final = "3.0.9"
# The REST server needs newer interfaces than resolution would choose.
CONNECT: Final = Jars(
    f"{KAFKA.endpoint}+org.apache.kafka:connect-runtime:{KAFKA_VERSION}"
    "+jakarta.ws.rs:jakarta.ws.rs-api:3.1.0+jakarta.servlet:jakarta.servlet-api:6.0.0",
    "Kafka Connect's jars",
    60,
)
JDBC_SINK: Final = Archive(
    "io.debezium", "debezium-connector-jdbc", JDBC_SINK_VERSION, "plugin", "the database sink", 58
)
_APICURIO: Final = "io.apicurio"
_CLOSURE: Final = Jars(f"{_APICURIO}:apicurio-registry-avro-serde-kafka:3.1.7", "the Avro converter", 41)
_CONVERTER: Final = tuple(
    f"apicurio-registry-{part}"
    for part in (
        "utils-converter", "common", "schema-resolver", "serde-common", "serde-common-avro", "serde-kafka-common",
        "avro-serde-kafka",
    )
)  # fmt: skip
"""At CONVERTER_VERSION, the tested one. Their descriptions lack a parent at Maven Central,
so that what else they need is taken from a later version's."""
_LEFT_OUT: Final = ("mockito-core", "byte-buddy", "byte-buddy-agent", "objenesis", "kafka-clients", "slf4j-api")
"""Of tests, or Connect's own."""


def converter_jars(progress: Progress) -> list[Path]:
    """The jars of the Avro converter.

    Raises ConfigurationError without the `embedded` extra and DependencyError when they can't be had.
    """
    _, jgo = embedded_extra()
    closure = fetch_jars(_CLOSURE, progress)
    others = [jar for jar in closure if _artifact(jar) not in (*_CONVERTER, *_LEFT_OUT)]
    cache = cache_folder()

    def fetch() -> list[Path]:
        return fetch_sound(cache / "m2", _CLOSURE.title, lambda: [_resolved(jgo, cache, name) for name in _CONVERTER])

    return kept_files(cache, cache / f"converter-{CONVERTER_VERSION}.json", _CLOSURE.title, fetch) + others


def connect_jars(progress: Progress) -> list[Path]:
    """The jars of Connect itself."""
    return fetch_jars(CONNECT, progress)


def jdbc_sink(progress: Progress) -> Path:
    """The folder that holds the sink's folder of jars."""
    return unpacked(JDBC_SINK, progress)


def _artifact(jar: Path) -> str:
    return jar.parent.parent.name


def _resolved(jgo: Any, cache: Path, artifact: str) -> Path:
    os.environ["M2_REPO"] = str(cache / "m2")
    context = jgo.maven.MavenContext(repo_cache=cache / "m2")
    return Path(context.project(_APICURIO, artifact).at_version(CONVERTER_VERSION).artifact().resolve())
