"""The processes that the package starts are forked from one that has loaded torch, except where a test objects.

Tests that do so are slow, whatever they take themselves: where the server cannot be a fork (`forks.start_server`), the
first of them waits until it has loaded torch.
"""

from __future__ import annotations

import pytest
from forks import fork_workers


@pytest.fixture
def real_start() -> None:
    """For tests of the start itself: the processes of the package are not forked."""


@pytest.fixture(autouse=True)
def _forked_workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_start" not in request.fixturenames:
        fork_workers(monkeypatch)
