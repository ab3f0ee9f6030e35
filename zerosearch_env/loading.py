"""Loads engines, rewards, protocols, noise schedules and agents from `module:attribute` or `file.py:attribute`.

Loading runs code, so a description is loaded only if the user typed it: on the command line or in Python. Descriptions
read from a file (the configuration of a run, the card of a checkpoint, a definition) must be names; whoever reads such
a file refuses those for which `names_code` is true.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import ConfigError, suggestion
from .identity import read_hash, source_hash, text_hash

_NAMES = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def names_code(description: object) -> bool:
    """True if a description has the form `module:attribute` or `file.py:attribute`."""
    if not isinstance(description, str):
        return False
    location, _, attribute = description.rpartition(":")
    return bool(_NAMES.fullmatch(attribute)) and (location.endswith(".py") or bool(_NAMES.fullmatch(location)))


# Any: only the caller knows what the attribute should be
def load_attribute(spec: str, what: str) -> Any:
    """Import what `"module:attribute"` names; the current directory is searched too.

    Args:
        spec: `"package.module:name"`, `"module:object.name"` or `"path/to/file.py:name"`.
        what: what it is, for the error messages, for example "reward".

    Raises:
        ConfigError: the spec is malformed, the module or the name does not exist (the message suggests the nearest
            one), or the module fails to import.
    """
    location, _, path = spec.rpartition(":")
    if not location or not path:
        raise ConfigError(f"{what} {spec!r}: expected module:name or file.py:name, for example my_module:my_name")
    where = f"{what} {spec!r}"
    module = _load_file(location, where) if location.endswith(".py") else _load_module(location, where)
    target: Any = module
    for name in path.split("."):
        if not hasattr(target, name):
            candidates = [n for n in vars(target) if not n.startswith("_") and callable(getattr(target, n))]
            offered = f" It has {', '.join(candidates[:10])}." if candidates else " It defines nothing to call."
            raise ConfigError(f"{where}: {location!r} has no {name!r}.{suggestion(name, candidates) or offered}")
        target = getattr(target, name)
    return target


# Any: whoever calls the object knows its type
def load_callable(spec: str, what: str) -> Callable[..., Any]:
    """Import a function, a class or another callable, as `load_attribute` does.

    Raises:
        ConfigError: see `load_attribute`; or the object is not callable.
    """
    target = load_attribute(spec, what)
    if not callable(target):
        raise ConfigError(f"{what} {spec!r}: expected a callable, got {type(target).__name__}")
    return target  # type: ignore[no-any-return]


# Any: whoever calls the object knows its type
def load_function(spec: str, what: str) -> Callable[..., Any]:
    """Import a function, as `load_callable` does; of a class, an instance made without arguments.

    Raises:
        ConfigError: see `load_callable`; or the instance cannot be made or is not callable.
    """
    target = load_callable(spec, what)
    return instantiate(target, f"{what} {spec!r}") if inspect.isclass(target) else target


# Any: whoever calls the object knows its type
def instantiate(kind: Callable[..., Any], where: str) -> Callable[..., Any]:
    """A callable instance of a class, made without arguments.

    Args:
        kind: the class.
        where: what it is, for the error messages, for example "reward 'parts.py:Reward'".

    Raises:
        ConfigError: the instance cannot be made or is not callable.
    """
    try:
        instance = kind()
    except (Exception, SystemExit) as cause:
        raise ConfigError(f"{where}: it could not be instantiated: {_cause(cause)}") from cause
    if not callable(instance):
        raise ConfigError(f"{where}: an instance of the class is not callable; define __call__")
    return instance  # type: ignore[no-any-return]


def code_identity(descriptions: Iterable[object]) -> dict[str, str]:
    """The record (`identity.py`) of the code that has been loaded for descriptions; others are left out.

    Args:
        descriptions: values of options, such as `"corpus"` or `"my_reward.py:reward"`.
    """
    record = {}
    for description in descriptions:
        if isinstance(description, str) and names_code(description):
            location = description.rpartition(":")[0]
            file = location if location.endswith(".py") else getattr(sys.modules.get(location), "__file__", None)
            if file is not None and Path(file).is_file():
                record[f"the code in {Path(file).name}"] = source_hash(Path(file))
    return record


def _load_module(name: str, where: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as cause:
        if cause.name and (name == cause.name or name.startswith(f"{cause.name}.")):
            candidates = [module.name for module in pkgutil.iter_modules()] + ["zerosearch_agents", "zerosearch_env"]
            raise ConfigError(
                f"{where}: there is no module {cause.name!r}.{suggestion(cause.name, candidates)} "
                "Modules are looked for in the current directory and among the installed packages."
            ) from cause
        raise ConfigError(f"{where}: importing it failed: {cause}") from cause
    except (Exception, SystemExit) as cause:
        raise ConfigError(f"{where}: importing it failed: {_cause(cause)}") from cause


def _load_file(location: str, where: str) -> ModuleType:
    file = Path(location)
    if not file.is_file():
        siblings = [f.name for f in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise ConfigError(f"{where}: there is no file {location!r}.{suggestion(file.name, siblings)}")
    # One module per content: two descriptions share it, and a file that has changed is loaded again.
    name = f"_zerosearch_{file.stem}_{text_hash(f'{file.resolve()} {read_hash(file)}')}"
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, file)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"{where}: {location!r} cannot be imported")
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # for modules next to the file
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as cause:
        del sys.modules[name]
        raise ConfigError(f"{where}: running it failed: {_cause(cause)}") from cause
    return module


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
