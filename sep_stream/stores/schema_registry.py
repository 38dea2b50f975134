"""A schema registry over HTTP: Confluent's protocol, and Apicurio's own where it can do more."""

from __future__ import annotations

import hashlib
import io
import json
import ssl
import time
import zipfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import httpx

from sep_stream.errors import ConfigurationError, DependencyError
from sep_stream.runtime.registry_address import RegistryAddress

TALK_S_MAX: Final = 30.0
"""For all that one command asks of it."""
REQUEST_S_MAX: Final = 10.0
ANSWER_BYTES_MAX: Final = 16 << 20
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_REFUSED: Final = frozenset({400, 403, 404, 405, 409, 422, 501})
"""Of an import that this registry, or this user, can't do."""


@dataclass(frozen=True, slots=True)
class Version:
    """A schema of a subject. text: None where it was not asked for"""

    subject: str
    version: int
    schema_id: int
    text: str | None = None
    is_avro: bool = True


class RefusedError(DependencyError):
    """The registry does not take a schema. told: its own words"""

    def __init__(self, told: str) -> None:
        super().__init__(told)
        self.told = told


class SchemaRegistry:
    """To be used as a context. Every method raises DependencyError that names the registry and the remedy."""

    def __init__(self, address: RegistryAddress, seconds_max: float = TALK_S_MAX) -> None:
        self.address, self._deadline_s = address, time.monotonic() + seconds_max
        self._seconds_max = seconds_max
        is_local = urlsplit(address.url).hostname in _LOOPBACK
        login = None if address.username is None else (address.username, address.password or "")
        self._client = httpx.Client(auth=login, verify=_trust(address), trust_env=not is_local)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def subjects(self) -> list[str]:
        _, found = self._ask("GET", "/subjects")
        return [str(name) for name in self._expected(found, list)]

    def versions(self, subject: str) -> list[Version]:
        """All versions of a subject with their schemas, the oldest first; none if there is no such subject."""
        status, numbers = self._ask("GET", f"/subjects/{_part(subject)}/versions", allowed={_NOT_FOUND})
        if status == _NOT_FOUND:
            return []
        return [self._version(subject, number) for number in self._expected(numbers, list)]

    def _version(self, subject: str, number: int) -> Version:
        _, found = self._ask("GET", f"/subjects/{_part(subject)}/versions/{number}")
        entry = self._expected(found, dict)
        return Version(
            subject, number, self._id_in(entry), str(entry.get("schema")), entry.get("schemaType", "AVRO") == "AVRO"
        )

    def schema(self, schema_id: int) -> str | None:
        """The text of an Avro schema by its id; None if there is none with that id."""
        status, found = self._ask("GET", f"/schemas/ids/{schema_id}", allowed={_NOT_FOUND, 400, 422})
        if not httpx.codes.is_success(status):
            return None
        entry = self._expected(found, dict)
        return str(entry.get("schema")) if entry.get("schemaType", "AVRO") == "AVRO" else None

    def find(self, subject: str, text: str) -> Version | None:
        """This very schema in a subject; None if it is not there."""
        status, found = self._ask("POST", f"/subjects/{_part(subject)}", {"schema": text}, allowed={_NOT_FOUND})
        if status == _NOT_FOUND:
            return None
        entry = self._expected(found, dict)
        return Version(subject, int(entry.get("version", 0)), self._id_in(entry))

    def compatibility(self, subject: str) -> str:
        """In force for a subject, its own or the registry's default."""
        status, found = self._ask("GET", f"/config/{_part(subject)}", allowed={_NOT_FOUND})
        if status == _NOT_FOUND:
            _, found = self._ask("GET", "/config")
        return str(self._expected(found, dict).get("compatibilityLevel"))

    def set_compatibility(self, subject: str, level: str) -> None:
        self._ask("PUT", f"/config/{_part(subject)}", {"compatibility": level})

    def add(self, subject: str, text: str) -> int:
        """Register a schema; the id that it has from then on. RefusedError if it is not compatible."""
        status, found = self._ask(
            "POST", f"/subjects/{_part(subject)}/versions", {"schema": text}, allowed={_CONFLICT, 422}
        )
        entry = self._expected(found, dict)
        if status in (_CONFLICT, 422):
            raise RefusedError(str(entry.get("message", "it gives no reason")))
        return self._id_in(entry)

    def add_under(self, subject: str, text: str, schema_id: int) -> bool:
        """Register the first schema of a subject under an id of ours, by Confluent's mode IMPORT.

        False if this registry, or this user, can't do that, or the id is another schema's.
        """
        mode = f"/mode/{_part(subject)}"
        status, _ = self._ask("PUT", mode, {"mode": "IMPORT"}, allowed=_REFUSED)
        if status in _REFUSED:
            return False
        try:
            entry = {"schema": text, "id": schema_id, "version": 1}
            status, _ = self._ask("POST", f"/subjects/{_part(subject)}/versions", entry, allowed=_REFUSED)
        finally:
            self._ask("PUT", mode, {"mode": "READWRITE"})
        return status not in _REFUSED

    def keep_under(self, texts: Mapping[int, str]) -> bool:
        """Lay schemas under ids of ours into an Apicurio registry, in no subject yet: `add` then finds them by content.

        An id or a schema that is there already is left as it is. False if this registry, or this user, can't do that.
        """
        native = self.address.native_url
        if native is None:
            return False
        export = _export_of({key: text for key, text in texts.items() if self._is_free(native, key, text)})
        status, _ = self._ask(
            "POST", "/admin/import?requireEmptyRegistry=false", export, root=native, allowed=_REFUSED
        )  # fmt: skip
        return status not in _REFUSED

    def _is_free(self, native: str, schema_id: int, text: str) -> bool:
        """Importing either twice fails, and a registry that has failed five times calls itself ill."""
        paths = f"/ids/contentIds/{schema_id}", f"/ids/contentHashes/{_digest(text)}"
        return all(self._ask("GET", path, root=native, allowed={_NOT_FOUND})[0] == _NOT_FOUND for path in paths)

    def _id_in(self, entry: Mapping[str, Any]) -> int:
        schema_id = entry.get("id")
        if not isinstance(schema_id, int):
            raise self._strange(f"no id in {json.dumps(entry)[:200]}")
        return schema_id

    def _expected(self, found: Any, kind: type[Any]) -> Any:
        if not isinstance(found, kind):
            raise self._strange(f"a {kind.__name__} was expected, got {str(found)[:200]!r}")
        return found

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        root: str | None = None,
        allowed: Collection[int] = (),
    ) -> tuple[int, Any]:
        """(status, answer as JSON). A status of 400 and more is an error unless it is allowed."""
        content = json.dumps(body) if isinstance(body, Mapping) else body
        kind = "application/zip" if isinstance(body, bytes) else "application/json"
        try:
            status, answer = self._answer(method, f"{root or self.address.url}{path}", content, kind)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DependencyError(f"{self.address.url}: the schema registry {self._trouble(error)}") from error
        found = _json(answer)
        if status in allowed or httpx.codes.is_success(status):
            return status, found
        raise DependencyError(f"{self.address.url}: {self._objection(status, found)}")

    def _answer(self, method: str, url: str, content: str | bytes | None, kind: str) -> tuple[int, bytes]:
        """(status, body), within what is left of the time."""
        answer = bytearray()
        request = self._client.build_request(
            method, url, content=content, headers={"Content-Type": kind}, timeout=self._left_s()
        )
        response = self._client.send(request, stream=True)
        try:
            for chunk in response.iter_bytes():
                answer += chunk
                self._left_s()
                if len(answer) > ANSWER_BYTES_MAX:
                    raise self._strange(f"an answer of more than {ANSWER_BYTES_MAX >> 20} MiB")
        finally:
            response.close()
        return response.status_code, bytes(answer)

    def _left_s(self) -> float:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise DependencyError(
                f"{self.address.url}: the schema registry took longer than {self._seconds_max:g} s; is it overloaded?"
            )
        return min(left_s, REQUEST_S_MAX)

    def _trouble(self, error: Exception) -> str:
        """Why there is no answer, and the remedy."""
        told = str(error) or type(error).__name__
        is_tls = self.address.url.startswith("https:")
        if isinstance(error, httpx.TimeoutException):
            return f"does not answer in time ({type(error).__name__}); is it running?"
        if "CERTIFICATE_VERIFY_FAILED" in told:
            return f"shows a certificate that is not trusted: {told}; name its authority: schema_registry_ca_location"
        if is_tls and "SSL" in told:
            return f"speaks no TLS ({told}): is its URL http://…?"
        if not is_tls and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
            return f"hangs up on plain HTTP ({told}): is its URL https://…?"
        return (
            f"does not answer: {told}; start it, name another with SEP_SCHEMA_REGISTRY, "
            "or start the embedded one with `sep-stream up --with registry`"
        )

    def _objection(self, status: int, found: Any) -> str:
        """What a refusal says, and the remedy."""
        told = found.get("message", "") if isinstance(found, dict) else ""
        who = f"the user {self.address.username!r}" if self.address.username else "who does not log in"
        match status:
            case 401:
                return (
                    f"the schema registry refuses {who}: give it schema_registry_username and "
                    "schema_registry_password_file that it knows"
                )
            case 403:
                return (
                    f"the schema registry does not let {who} do that: register the schemas as one who may write, "
                    "with `sep-stream schemas register`"
                )
            case _:
                return f"the schema registry answers {status} {told}".rstrip() + "; is this its URL, path included?"

    def _strange(self, what: str) -> DependencyError:
        return DependencyError(
            f"{self.address.url}: does not answer as a schema registry: {what}; its URL takes the path of Confluent's "
            "protocol, with Apicurio http://HOST:PORT/apis/ccompat/v7"
        )


def _trust(address: RegistryAddress) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=address.authority and str(address.authority))
    except (OSError, ssl.SSLError) as error:
        told = "expected a certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigurationError(f"schema_registry_ca_location {address.authority}: {told}") from error


def _part(subject: str) -> str:
    return quote(subject, safe="")


def _json(answer: bytes) -> Any:
    """None where it is none; who needs it says what was expected."""
    with suppress(ValueError):
        return json.loads(answer)
    return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _export_of(texts: Mapping[int, str]) -> bytes:
    """An export of an Apicurio registry that holds these schemas under these ids and nothing else."""
    out = io.BytesIO()
    manifest = {"systemName": "sep-stream", "systemVersion": "3.0", "exportVersion": "3.0", "exportedOn": 0}
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("manifest-0.Manifest.json", json.dumps(manifest))
        for schema_id, text in texts.items():
            digest = _digest(text)
            entry = {
                "contentId": schema_id,
                "contentHash": digest,
                "artifactType": "AVRO",
                "contentType": "application/json",
            }
            file.writestr(f"content/{digest}.Content.json", json.dumps(entry))
            file.writestr(f"content/{digest}.Content.data", text)
    return out.getvalue()
