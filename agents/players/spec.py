"""The agents and models that options name: `[LABEL=]SOURCE[,key=value,...]`.

    runs/quickstart/policy                                        a folder
    big=openai:http://a:8000/v1,http://b:8000/v1#Qwen/Qwen3-8B    two replicas of a model, called "big" in results
    warm=runs/sft/policy,temperature=1,protocol=search-r1         options of this agent only

A part between commas that begins with a known `key=` is an option. Any other part belongs to the source: a replica of
an endpoint, or the rest of a folder's name. A value that contains a comma is quoted as in a CSV file:
`'tiny,"system=Be brief, and search."'`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from zerosearch_env.errors import ConfigError, suggestion
from zerosearch_env.privacy import redact
from zerosearch_env.protocols.prompts import load_few_shot, load_prompt_template

from ..config.agent import CHAT
from ..policy.card import AgentCard
from ..policy.files import is_hub_name

SourceKind = Literal["tiny", "folder", "baseline", "openai", "vllm", "menu", "code", "hub", "unknown"]

_KEY = re.compile(r"([A-Za-z_-]+)=")
_SWITCH = {"on": True, "true": True, "off": False, "false": False}


@dataclass(frozen=True)
class AgentSpec:
    """An agent, or a model, as an option names it."""

    label: str
    """Its name in results: `LABEL`, or the source without credentials."""
    source: str
    """What plays: `"tiny"`, a folder, `"baseline:NAME"`, `"openai:URL[,URL...][#MODEL]"`, `"vllm:..."`,
    `"menu:FILE.zip"`, the user's own `"file.py:callable"`, or a name on the hub."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Entries of `AgentCard` that were given with it, of their own types; `chat` is "auto", "on" or "off"."""
    sampling: Mapping[str, float] = field(default_factory=dict)
    """`temperature` and `top_p`, if given."""
    endpoint: Mapping[str, str] = field(default_factory=dict)
    """For endpoints: `api_key_env` (the environment variable that holds the key) and `cache` (a file of earlier
    completions), if given."""

    @property
    def kind(self) -> SourceKind:
        """What kind of source it is; `"unknown"` if it is none, for example a folder that does not exist."""
        return source_kind(self.source)


def parse_agent(spec: str) -> AgentSpec:
    """Parse `[LABEL=]SOURCE[,key=value,...]`.

    Raises:
        ConfigError: a key is unknown or given twice, a value has the wrong type, or a part is neither an option nor a
            replica of an endpoint. Whether the source exists is not checked.
    """
    label, equals, rest = spec.partition("=")
    labelled = bool(equals and label) and not any(mark in label for mark in ':/\\,"')
    first, *parts = _split(rest if labelled else spec) or [""]
    if not first:
        raise ConfigError(f"agent {_shown(spec)}: expected [LABEL=]SOURCE[,key=value,...], for example runs/x/policy")
    source = [first]
    options: dict[str, Any] = {}
    for part in parts:
        key = _KEY.match(part)
        name = key[1].replace("-", "_") if key else ""
        if key is None or (name not in OPTIONS and "//" in part):  # an address may contain "key="
            source.append(part)
        elif name not in OPTIONS:
            raise ConfigError(
                f"agent {_shown(spec)}: unknown option {key[1]!r}.{suggestion(name, OPTIONS)} The options are "
                f"{', '.join(OPTIONS)}."
            )
        elif name in options:
            raise ConfigError(f"agent {_shown(spec)}: {name} is given twice")
        else:
            options[name] = _value(spec, name, part[key.end() :])
    whole = ",".join(source)
    if len(source) > 1 and source_kind(whole) not in ("folder", "openai", "vllm"):
        raise ConfigError(
            f"agent {_shown(spec)}: {redact(source[1])!r} is neither an option (key=value) nor the address of another "
            f"replica, which only openai: and vllm: have. A value that contains a comma is quoted: "
            "'\"system=one, two\"'. The options are "
            f"{', '.join(OPTIONS)}."
        )
    groups = [
        {name: value for name, value in options.items() if name in names}
        for names in (_CARD, _SAMPLING, ENDPOINT_OPTIONS)
    ]
    return AgentSpec(label if labelled else redact(whole), whole, *groups)


def source_kind(source: str) -> SourceKind:
    """What kind of source a name is. An existing folder is one, whatever else its name looks like."""
    head, colon, _ = source.partition(":")
    if source == "tiny":
        return "tiny"
    if Path(source).is_dir():
        return "folder"
    if colon:
        return head if head in ("baseline", "openai", "vllm", "menu") else "code"  # type: ignore[return-value]
    return "hub" if is_hub_name(source) and not source.endswith(".py") else "unknown"


def _split(text: str) -> list[str]:
    """The parts between commas."""
    try:
        return next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration) as cause:
        raise ConfigError(
            f"agent {_shown(text)}: the quotation marks do not match, or a value with a line break has none ({cause}). "
            "Expected LABEL=SOURCE,key=value,... in which a value with a comma is quoted: '\"system=one, two\"'."
        ) from cause


def _shown(spec: str) -> str:
    return f"{redact(spec)!r:.200}"


def _value(spec: str, name: str, text: str) -> Any:
    """The value of an option, of its own type."""
    read, expected = OPTIONS[name]
    try:
        return read(text)
    except (KeyError, ValueError) as cause:
        if isinstance(cause, ConfigError):
            raise ConfigError(f"agent {_shown(spec)}: {cause}") from cause
        raise ConfigError(f"agent {_shown(spec)}: {name} must be {expected}, got {text!r}") from cause


def _reader(kind: Any) -> tuple[Callable[[str], Any], str]:
    """How an option of a type is read, and what is expected of it."""
    kinds = get_args(kind) or (kind,)
    if bool in kinds:
        return (lambda text: _SWITCH[text.casefold()]), "on or off"
    if int in kinds:
        return int, "a whole number"
    return (float, "a number") if float in kinds else (str, "a text")


def _chat(text: str) -> str:
    """One of the words of `--chat`."""
    word = text.casefold()
    return word if word in CHAT else "on" if _SWITCH[word] else "off"


_CARD = {name: _reader(kind) for name, kind in get_type_hints(AgentCard).items()} | {
    "prompt_template": (load_prompt_template, "a text or a file that contains {question}"),
    "few_shot": (load_few_shot, "a text or a file"),
    "chat": (_chat, "on, off or auto"),
}
_SAMPLING = {"temperature": _reader(float), "top_p": _reader(float)}
ENDPOINT_OPTIONS = {"api_key_env": _reader(str), "cache": _reader(str)}
OPTIONS = {**_CARD, **_SAMPLING, **ENDPOINT_OPTIONS}
"""How each option is read, and what is expected of it."""
