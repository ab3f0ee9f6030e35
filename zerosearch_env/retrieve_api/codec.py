"""Read the body of a request. Its content type decides the encoding; if it is inconclusive, the first byte.

GEM's client sends msgpack without a content type, and `curl -d` labels JSON as a form. Both are accepted.
"""

from __future__ import annotations

from ..errors import ZeroSearchError
from ..llm.http.codecs import JSON, MSGPACK, Codec
from ..types import Json

_DECLARED = {
    "application/json": JSON,
    "application/msgpack": MSGPACK,
    "application/x-msgpack": MSGPACK,
    "application/vnd.msgpack": MSGPACK,
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


def codec_of(content_type: str | None, body: bytes) -> Codec:
    """Return a body's encoding, from its content type, else from its first byte."""
    declared = _DECLARED.get((content_type or "").partition(";")[0].strip().lower())
    return declared or (MSGPACK if body[:1] and body[0] in _MSGPACK_MAPS else JSON)


def decode(body: bytes, codec: Codec) -> dict[str, Json]:
    """Decode the object in a request's body.

    Raises:
        RequestError: the body is not valid in its encoding, or is not an object.
    """
    try:
        value = codec.decode(body)
    except (ValueError, RecursionError) as cause:
        raise RequestError(f"the body is not valid {codec.name}: {cause}", kind="bad_body") from cause
    if not isinstance(value, dict):
        got = "nothing" if value is None else type(value).__name__
        raise RequestError(f'the body must be an object such as {{"queries": ["..."]}}, got {got}', kind="bad_body")
    return value


def shown(value: object, limit: int = 200) -> str:
    """Return a value for an error message, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
