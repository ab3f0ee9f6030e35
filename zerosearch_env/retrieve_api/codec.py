"""Encode and decode bodies in JSON and msgpack. The content type decides which; if it is inconclusive, the first byte.

GEM's client sends msgpack without a content type, and `curl -d` labels JSON as a form. Both are accepted.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from ..errors import ZeroSearchError, require

Encoding = Literal["json", "msgpack"]

CONTENT_TYPES: dict[Encoding, str] = {"json": "application/json", "msgpack": "application/msgpack"}

_DECLARED: dict[str, Encoding] = {
    "application/json": "json",
    "application/msgpack": "msgpack",
    "application/x-msgpack": "msgpack",
    "application/vnd.msgpack": "msgpack",
}
_MSGPACK_MAPS = (*range(0x80, 0x90), 0xDE, 0xDF)
"""First bytes of a msgpack map; none of them can start JSON in UTF-8."""


class RequestError(ZeroSearchError, ValueError):
    """A request is invalid or cannot be answered now.

    Args:
        message: what was expected, what was received, and how to fix it.
        status: the HTTP status.
        kind: a short name for the metrics.
    """

    def __init__(self, message: str, status: int = 400, kind: str = "bad_request") -> None:
        super().__init__(message, status, kind)
        self.status = status
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[0])


def encoding_of(content_type: str | None, body: bytes) -> Encoding:
    """Return a body's encoding, from its content type, else from its first byte."""
    declared = _DECLARED.get((content_type or "").partition(";")[0].strip().lower())
    if declared is not None:
        return declared
    return "msgpack" if body[:1] and body[0] in _MSGPACK_MAPS else "json"


def decode(body: bytes, encoding: Encoding) -> dict[str, Any]:
    """Decode the object in a request's body.

    Raises:
        RequestError: the body is not valid in its encoding, or is not an object.
        MissingExtraError: the body is msgpack, and the library is not installed.
    """
    try:
        value = json.loads(body) if encoding == "json" else _unpack(body)
    except (ValueError, RecursionError) as cause:
        raise RequestError(f"the body is not valid {encoding}: {cause}", kind="bad_body") from cause
    if not isinstance(value, dict):
        got = "nothing" if value is None else type(value).__name__
        raise RequestError(f'the body must be an object such as {{"queries": ["..."]}}, got {got}', kind="bad_body")
    return value


def encode(value: Any, encoding: Encoding) -> bytes:
    """Encode a response's body."""
    if encoding == "json":
        # ASCII only: documents may contain lone surrogates, which UTF-8 cannot encode.
        return json.dumps(value, separators=(",", ":")).encode("ascii")
    packed: bytes = require("msgpack", "serve").packb(value, unicode_errors="surrogatepass")
    return packed


def _unpack(body: bytes) -> Any:
    msgpack = require("msgpack", "serve")
    try:
        return msgpack.unpackb(body, unicode_errors="surrogatepass", strict_map_key=False)
    except (msgpack.UnpackException, TypeError) as cause:  # TypeError: an unhashable key of a map
        raise ValueError(cause or "incomplete") from cause
