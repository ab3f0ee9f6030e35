"""The token and the address. No server."""

from __future__ import annotations

import base64

import pytest

from zerosearch_env.errors import ConfigError
from zerosearch_env.llm.http.options import is_loopback
from zerosearch_env.serve.access import address_of, is_local, is_token, open_socket

TOKEN = "schlüssel"


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer  {TOKEN} ", basic(f"any:{TOKEN}"), basic(f":{TOKEN}")])
def test_accepted(header: str) -> None:
    assert is_token(header, TOKEN)


@pytest.mark.parametrize(
    "header",
    ["", TOKEN, "Bearer", f"Bearer {TOKEN}x", f"Digest {TOKEN}", "Basic é", "Basic !", basic(TOKEN), basic("a:b")],
)
def test_refused(header: str) -> None:
    assert not is_token(header, TOKEN)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)],
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) == local


@pytest.mark.parametrize(
    ("header", "local"),
    [
        *[(header, True) for header in ("", "localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:1", "a.localhost")],
        *[(header, False) for header in ("evil.example", "localhost.evil.example:80", "192.168.0.1", "[::", "[::2]")],
    ],
)
def test_host_headers(header: str, local: bool) -> None:
    assert is_local(header) == local


def test_address() -> None:
    with open_socket("127.0.0.1", 0) as listener:
        assert address_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(("host", "port"), [("x" * 64, 0), ("127.0.0.1", 70_000), ("127.0.0.1", -1), ("192.0.2.1", 0)])
def test_no_such_address(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        open_socket(host, port)
