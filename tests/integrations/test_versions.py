"""Adapters refuse versions of a framework that they were not tested with, and say what to install."""

from __future__ import annotations

import importlib.metadata

import pytest

from zerosearch_env.errors import MissingExtraError
from zerosearch_env.integrations.versions import require_version

INSTALL = 'pip install "zerosearch-env[fake]"'


@pytest.mark.parametrize("version", ["1.16", "1.16.0", "1.16.3", "1.17.0rc1", "1.17.2.dev0"])
def test_tested_versions_are_accepted(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    require_version("fake", "1.16", "1.17", INSTALL)


@pytest.mark.parametrize(
    ("version", "fault"), [("1.15.9", "old"), ("0.99", "old"), ("1.18.0", "new"), ("2.0", "new"), ("2", "new")]
)
def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch, version: str, fault: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    with pytest.raises(MissingExtraError, match=rf"fake {version} is too {fault}: .* 1\.16 to 1\.17\. .*pip install"):
        require_version("fake", "1.16", "1.17", INSTALL)


def test_a_missing_framework_is_named_with_the_version_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"no-such-framework 0\.4 is needed here and is not installed.*pip"):
        require_version("no-such-framework", "0.4", "0.4", INSTALL)
