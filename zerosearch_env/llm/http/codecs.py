"""Encodings of request and response bodies, in the HTTP client and in `zerosearch serve`: JSON, or msgpack."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...errors import require
from ...types import Json


@dataclass(frozen=True, slots=True)
class Codec:
    """An encoding of bodies."""

    name: str
    content_type: str
    encode: Callable[[Json], bytes]
    decode: Callable[[bytes], Json]
    """Decodes a body. Raises ValueError or RecursionError if it is not in this encoding."""


_JSON_TEXT = json.JSONEncoder(separators=(",", ":")).encode  # `json.dumps` makes a new encoder for every call


def _write_json(value: Any) -> bytes:
    # ASCII only: documents may contain lone surrogates, which UTF-8 cannot encode.
    return _JSON_TEXT(value).encode("ascii")


def _write_msgpack(value: Any) -> bytes:
    packed: bytes = require("msgpack").packb(value, unicode_errors="surrogatepass")
    return packed


def _read_msgpack(body: bytes) -> Any:
    """Read msgpack, or JSON if a server reports errors in it: no msgpack container starts with a JSON bracket."""
    if body.lstrip()[:1] in (b"{", b"["):
        return json.loads(body)
    msgpack = require("msgpack")
    try:
        return msgpack.unpackb(body, unicode_errors="surrogatepass", strict_map_key=False)
    except (msgpack.UnpackException, TypeError) as cause:  # TypeError: a map with an unhashable key
        raise ValueError(str(cause) or "it ends too early") from cause


JSON = Codec("JSON", "application/json", _write_json, json.loads)
MSGPACK = Codec("msgpack", "application/msgpack", _write_msgpack, _read_msgpack)
