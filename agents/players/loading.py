"""Loads a third-party agent from `module:callable` or `file.py:callable`; suggests names for misspelt ones."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from zerosearch_env.errors import ConfigError


def load_callable(spec: str) -> Callable[..., Any]:
    """Import the object that `"module:callable"` names; the current directory is searched too.

    Args:
        spec: `"package.module:function"`, `"module:Class"`, `"module:object.method"` or `"path/to/file.py:function"`.

    Raises:
        ConfigError: the spec is malformed, the module or the name does not exist (the message suggests the nearest
            one), the module fails to import, or the object is not callable.
    """
    location, colon, path = spec.rpartition(":")
    if not colon or not location or not path:
        raise ConfigError(f"agent {spec!r}: expected module:callable, for example my_agent:answer")
    module = _load_file(location, spec) if location.endswith(".py") else _load_module(location, spec)
    target: Any = module
    for name in path.split("."):
        if not hasattr(target, name):
            candidates = [n for n in vars(target) if not n.startswith("_") and callable(getattr(target, n))]
            raise ConfigError(f"agent {spec!r}: {location!r} has no {name!r}.{_suggest(name, candidates)}")
        target = getattr(target, name)
    if not callable(target):
        raise ConfigError(f"agent {spec!r}: expected a callable, got {type(target).__name__}")
    return target  # type: ignore[no-any-return]


def _load_module(name: str, spec: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as cause:
        if cause.name and (name == cause.name or name.startswith(f"{cause.name}.")):
            candidates = [module.name for module in pkgutil.iter_modules()] + ["zerosearch_agents", "zerosearch_env"]
            raise ConfigError(
                f"agent {spec!r}: there is no module {cause.name!r}.{_suggest(cause.name, candidates)} "
                "Modules are looked for in the current directory and among the installed packages."
            ) from cause
        raise ConfigError(f"agent {spec!r}: importing it failed: {cause}") from cause
    except Exception as cause:
        raise ConfigError(f"agent {spec!r}: importing it failed: {type(cause).__name__}: {cause}") from cause


def _load_file(location: str, spec: str) -> ModuleType:
    file = Path(location)
    if not file.is_file():
        siblings = [f.name for f in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise ConfigError(f"agent {spec!r}: there is no file {location!r}.{_suggest(file.name, siblings)}")
    name = f"_zerosearch_agent_{file.stem}"
    module_spec = importlib.util.spec_from_file_location(name, file)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"agent {spec!r}: {location!r} cannot be imported")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except Exception as cause:
        del sys.modules[name]
        raise ConfigError(f"agent {spec!r}: running it failed: {type(cause).__name__}: {cause}") from cause
    return module


def _suggest(name: str, candidates: list[str]) -> str:
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
