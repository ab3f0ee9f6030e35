"""Check that a framework is installed in a version that its adapter was written for."""

from __future__ import annotations

import importlib.metadata
import re

from ..errors import MissingExtraError


def require_version(package: str, oldest: str, newest: str, install: str) -> None:
    """Check the installed version of a framework, before it is imported.

    Only the numbers are compared, as many as `oldest` and `newest` have: with ("1.16", "1.16"), 1.16.3 and 1.16.0rc1
    are accepted, 1.15.9 and 1.17.0 are not.

    Args:
        package: name of the distribution, for example `"trl"`.
        oldest: the oldest release that the adapter was run with.
        newest: the newest one.
        install: what installs it, for example `pip install "zerosearch-env[trl]"`.

    Raises:
        MissingExtraError: the framework is missing, too old or too new.
    """
    tested = oldest if oldest == newest else f"{oldest} to {newest}"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtraError(
            f"{package} {tested} is needed here and is not installed. Install it with: {install}"
        ) from None
    too_old, too_new = _cut(version, oldest) < _numbers(oldest), _cut(version, newest) > _numbers(newest)
    if too_old or too_new:
        raise MissingExtraError(
            f"{package} {version} is too {'old' if too_old else 'new'}: this adapter was written for and tested with "
            f"{tested}. Install that with: {install}"
        )


def _cut(version: str, other: str) -> list[int]:
    """The numbers of a version, as many as those of the other one."""
    return _numbers(version)[: len(_numbers(other))]


def _numbers(version: str) -> list[int]:
    found = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in found[0].split(".")] if found else []
