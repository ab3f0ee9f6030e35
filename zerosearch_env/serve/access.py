"""Access to the server: the socket it listens on, and the token that requests must carry."""

from __future__ import annotations

import base64
import hmac
import socket
from functools import lru_cache
from urllib.parse import urlsplit

from ..errors import ConfigError, sentence
from ..llm.http.options import is_loopback

BACKLOG = 2048
"""Maximum number of connections waiting to be accepted."""


def open_socket(host: str, port: int) -> socket.socket:
    """Open a listening socket. Done first, so that a port in use is reported before anything is loaded.

    Raises:
        ConfigError: it is not possible to listen on the address.
    """
    if not 0 <= port <= 65_535:
        raise ConfigError(f"cannot listen on port {port}: expected 0 (any free port) to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as cause:
        raise ConfigError(f"cannot listen on {host!r}: {cause}") from cause
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # From now on connections wait for the server instead of being refused.
        listener.listen(BACKLOG)
    except OSError as cause:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {sentence(cause)} Choose another --port; 0 picks a free one"
        ) from cause
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the address that clients use."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@lru_cache(maxsize=64)  # a client sends the same header with every request
def is_local(host_header: str) -> bool:
    """Whether a `Host` header names this machine, as a name or address of the loopback interface.

    A web page may resolve its own name to 127.0.0.1, and its scripts then reach servers of this machine; the header
    still has the name of the page.

    Args:
        host_header: the header; "" (HTTP/1.0 without a `Host`) is accepted, since browsers always send one.
    """
    try:
        name = urlsplit(f"//{host_header}").hostname or ""
    except ValueError:  # unclosed brackets
        return False
    return not host_header or is_loopback(name) or name.endswith(".localhost")


def is_token(authorization: str, token: str) -> bool:
    """Whether a request carries the token, as a bearer token or as the password of basic credentials.

    HTTP libraries turn `http://any:TOKEN@host:port/retrieve` into basic credentials, so clients that are configured
    only with an address can send the token. The comparison takes constant time.

    Args:
        authorization: the request's `Authorization` header, or "".
        token: the server's token.
    """
    scheme, _, value = authorization.partition(" ")
    sent = b""
    if scheme.lower() == "bearer":
        sent = value.strip().encode()
    elif scheme.lower() == "basic":
        try:
            sent = base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except ValueError:  # not base64 or not ASCII, so not the token
            sent = b""
    return hmac.compare_digest(sent, token.encode())
