"""Who can reach the server: the socket it listens on, and the token that requests carry."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import socket

from ..errors import ConfigError

BACKLOG = 2048
"""Connections that may wait to be accepted."""


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket, so that a port in use is known before anything is loaded.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    if not 0 <= port <= 65_535:
        raise ConfigError(f"cannot listen on port {port}: expected 0 (any free one) to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as cause:
        raise ConfigError(f"cannot listen on {host!r}: {cause}") from cause
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # From here on connections wait for the server instead of being refused.
        listener.listen(BACKLOG)
    except OSError as cause:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {cause}. Give another --port; 0 takes a free one"
        ) from cause
    return listener


def address_of(listener: socket.socket) -> str:
    """The address that clients use."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host to listen on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_token(authorization: str, token: str) -> bool:
    """Whether a request carries the token, as a bearer's or as the password of basic credentials.

    HTTP libraries turn `http://any:TOKEN@host:port/retrieve` into basic credentials, so that clients which take
    nothing but an address can send one. The comparison takes the same time wherever the two differ.

    Args:
        authorization: the request's header of that name, or "".
        token: the server's.
    """
    scheme, _, value = authorization.partition(" ")
    sent = b""
    if scheme.lower() == "bearer":
        sent = value.strip().encode()
    elif scheme.lower() == "basic":
        try:
            sent = base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except ValueError:  # no base64, or no ASCII: then it is not the token either
            sent = b""
    return hmac.compare_digest(sent, token.encode())
