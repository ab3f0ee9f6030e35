"""The `info` of a reset and of a step: a dict for one environment, arrays with masks for a vector environment.

The keys of a step's info are attribute names of `Step` and `Scores`, so both forms are read from the same records. A
value has the same type at every turn, because Gymnasium's vector environments choose the dtype of an array by the first
value they see. Therefore `noisy` and `answer_in_documents` are False, not None, if the turn was not a search.

`answer_in_documents` is computed when it is first read: it takes as long as the rest of a step, and few callers need
it. In a vector environment so are `queries`, `document_groups` and `noise_flags`, which repeat the query, documents and
noise of turns with one search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial, wraps
from operator import attrgetter, itemgetter
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..game.rules import Rules
from ..types import Json, Scores, Step

Infos = dict[str, Any]

RESET_KEYS = ("question", "question_id", "noise_level", "progress")
"""Keys of the info of a reset."""
STEP_KEYS = (
    "action",
    "query",
    "documents",
    "noisy",
    "queries",
    "document_groups",
    "noise_flags",
    "noise_level",
    "answer_in_documents",
    "turn",
    "stop_reason",
)
"""Keys present at every step: attributes of `Step` (`document_groups`: `groups`)."""
SCORE_KEYS = (
    *("prediction", "answers", "em", "f1", "subem", "em_unicode", "f1_unicode", "searches"),
    *("misled", "abstained", "hallucinated", "counterfactual", "noise_kind"),
)
"""Additional keys at the end of an episode: attributes of `Scores`. Gold answers never appear before the end. Names of
additional scores (`Rules.scores`) are keys too."""

NoDraw = Literal[False] | tuple[()]
"""The value of `noisy` if a turn was not a search: False, or an empty tuple if noise is drawn per document."""

_DTYPES: Mapping[str, Any] = {
    **dict.fromkeys(("noise_level", "progress", "em", "f1", "subem", "em_unicode", "f1_unicode"), np.float64),
    **dict.fromkeys(("misled", "abstained", "hallucinated"), np.float64),
    **dict.fromkeys(("turn", "searches"), np.int64),
    **dict.fromkeys(("noisy", "answer_in_documents"), np.bool_),
}
"""Keys with arrays of numbers or booleans; `noisy` is one of them only if noise is drawn per search. Every other key
has an object array, with None for sub-environments without a value."""

_FOUND = "answer_in_documents"
_LATE: Mapping[str, str] = {
    "queries": "queries",
    "document_groups": "groups",
    "noise_flags": "noise_flags",
    _FOUND: _FOUND,
}
"""Keys with values that are computed when they are read, each with its attribute of `Step`."""
_UNKNOWN = object()
"""The value of such a key until then."""


class LateInfo(dict[str, Any]):
    """An info with values that are computed when they are first read.

    Everything that may read them computes them, also `dict(info)`, `{**info}`, comparing, copying and pickling. What
    only looks at the keys does not: `in`, `len`, `keys()`.
    """

    __slots__ = ("compute",)

    # Any: a value for one environment, an array for several
    compute: Callable[[str], Any]
    """Key -> its value; needed if a value is `_UNKNOWN`. It is set later, because dict's own constructor is faster."""

    def complete(self) -> None:
        """Compute the values, if that has not been done."""
        for key in _LATE:
            if dict.get(self, key) is _UNKNOWN:
                self.__getitem__(key)

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if value is _UNKNOWN:
            value = self[key] = self.compute(key)
        return value

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return LateInfo, (dict(self),)


def _complete_first(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def complete_and_call(self: LateInfo, *args: Any) -> Any:
        for info in (self, *args):
            if isinstance(info, LateInfo):
                info.complete()
        return method(self, *args)

    return complete_and_call


# CPython copies a dict without asking its methods (`dict(info)`, `{**info}`), unless `__iter__` is not dict's own.
for _name in ("__iter__", "__reversed__", "__eq__", "__ne__", "__or__", "__ror__", "__repr__"):
    setattr(LateInfo, _name, _complete_first(getattr(dict, _name)))
for _name in ("copy", "get", "items", "pop", "popitem", "setdefault", "values"):
    setattr(LateInfo, _name, _complete_first(getattr(dict, _name)))


_RESET_GETTERS = [(key, itemgetter(key)) for key in RESET_KEYS]
_STEP_GETTERS = [(key, attrgetter(key)) for key in STEP_KEYS if key != "noisy" and key not in _LATE]
_SCORE_GETTERS = [(key, attrgetter(key)) for key in SCORE_KEYS]


def no_draw(rules: Rules) -> NoDraw:
    """The value of `noisy` at a turn that is not a search."""
    return False if rules.noise_unit == "search" else ()


def step_info(step: Step, unset: NoDraw = False) -> Infos:
    """The `info` of a step. Gold answers and scores are present only at the end of an episode.

    Args:
        step: the step.
        unset: the value of `noisy` if the turn was not a search; see `no_draw`.
    """
    # Written out: this runs at every step, and `attrgetter` with `zip` takes five times as long.
    usual = step.searches is None and step.noisy is not None and step.scores is None  # one search
    info: Infos = {
        "action": step.action,
        "query": step.query,
        "documents": step.documents,
        "noisy": unset if step.noisy is None else step.noisy,
        "queries": (step.query,) if usual else step.queries,
        "document_groups": (step.documents,) if usual else step.groups,
        "noise_flags": (step.noisy,) if usual else step.noise_flags,
        "noise_level": step.noise_level,
        _FOUND: False if step.find_answer is None else _UNKNOWN,
        "turn": step.turn,
        "stop_reason": step.stop_reason,
    }
    scores = step.scores
    if scores is not None:
        info["prediction"] = scores.prediction
        info["answers"] = scores.answers
        info["em"] = scores.em
        info["f1"] = scores.f1
        info["subem"] = scores.subem
        info["em_unicode"] = scores.em_unicode
        info["f1_unicode"] = scores.f1_unicode
        info["searches"] = scores.searches
        info["misled"] = scores.misled
        info["abstained"] = scores.abstained
        info["hallucinated"] = scores.hallucinated
        info["counterfactual"] = scores.counterfactual
        info["noise_kind"] = scores.noise_kind
        for name, value in scores.extra:
            info[name] = math.nan if value is None else value
        if step.error is not None:
            info["error"] = step.error
    return info if step.find_answer is None else _late(info, partial(getattr, step))


def _late(values: Infos, compute: Callable[[str], Any]) -> LateInfo:
    info = LateInfo(values)
    info.compute = compute
    return info


def batch_infos(count: int, starts: Mapping[int, Infos], steps: Mapping[int, Step], unset: NoDraw = False) -> Infos:
    """The infos of all sub-environments as arrays of length `count`, each with a mask under `_key`.

    Args:
        count: number of sub-environments.
        starts: infos of the sub-environments that were reset, by index.
        steps: steps of the sub-environments that played a turn, by index. No index is in both mappings.
        unset: the value of `noisy` if a turn was not a search; see `no_draw`.

    Returns:
        Arrays of numbers and booleans, object arrays for everything else.
    """
    infos: Infos = {}
    if starts:
        _write(infos, count, list(starts), list(starts.values()), _RESET_GETTERS)
    if steps:
        indices, rows = list(steps), list(steps.values())
        _write(infos, count, indices, rows, [*_STEP_GETTERS, ("noisy", _NOISY if unset is False else _flags)])
        ended = [(index, step) for index, step in zip(indices, rows, strict=True) if step.scores is not None]
        if ended:
            scores = [step.scores for _, step in ended if step.scores is not None]
            extra = [(name, partial(_extra, place)) for place, (name, _) in enumerate(scores[0].extra)]
            where = [index for index, _ in ended]
            _write(infos, count, where, scores, _SCORE_GETTERS)
            _write(infos, count, where, scores, extra, np.float64)
            failed = {index: step for index, step in ended if step.error is not None}
            if failed:
                _write(infos, count, list(failed), list(failed.values()), [("error", attrgetter("error"))])
        for key in _LATE:
            infos[key], infos[f"_{key}"] = _UNKNOWN, infos["_turn"].copy()
        return _late(infos, partial(_late_column, count, indices, rows))
    return infos


_NOISY = attrgetter("noisy")
"""`Step.noisy` for an array of booleans, in which None becomes False."""


def _flags(step: Step) -> tuple[bool, ...]:
    """`Step.noisy` if noise is drawn per document."""
    return () if step.noisy is None else step.noisy  # type: ignore[return-value]


def _extra(place: int, scores: Scores) -> float:
    """The additional score at a place; NaN if it has no value."""
    value = scores.extra[place][1]
    return math.nan if value is None else value


def _late_column(count: int, indices: Sequence[int], rows: Sequence[Step], key: str) -> NDArray[Any]:
    """The array of a late key."""
    if key == _FOUND:
        column: NDArray[Any] = np.zeros(count, np.bool_)
        column[indices] = [step.answer_in_documents is True for step in rows]
    else:
        column = np.empty(count, object)
        column[indices] = np.fromiter(map(attrgetter(_LATE[key]), rows), object, len(rows))
    return column


# Any: the info of other environments and wrappers may hold anything
def plain(info: Mapping[str, Any]) -> dict[str, Json]:
    """The info of a step or a reset as JSON values, for one environment or a vector environment.

    Records (`Document`, `Question`, ...) become objects, tuples and arrays become lists, NumPy's numbers become
    Python's, enumerations become their values, and NaN and infinity, which JSON does not have, become None. The info is
    not changed.

    Args:
        info: an info of this package's environments, with or without what wrappers added.

    Raises:
        ConfigError: a value has no JSON form; the message names its key and its type.

    Example:
        >>> import json
        >>> from zerosearch_env import Document
        >>> json.dumps(plain({"documents": (Document("Paris", "A city."),), "turn": np.int64(1)}))
        '{"documents": [{"title": "Paris", "text": "A city.", "source": "", "score": null}], "turn": 1}'
    """
    return {str(key): _plain(value, str(key)) for key, value in info.items()}


def _plain(value: Any, where: str) -> Json:
    """One value; `where` is its place in the info, for the error message."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part, f"{where}[{index}]") for index, part in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(part, where) for part in value), key=repr)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
    if isinstance(value, PurePath):
        return str(value)
    raise ConfigError(
        f"info[{where!r}] is a {type(value).__name__}, which has no JSON form: convert it, or leave this key out."
    )


def _write(
    infos: Infos,
    count: int,
    indices: Sequence[int],
    rows: Sequence[Any],
    getters: Iterable[tuple[str, Any]],
    default: Any = object,
) -> None:
    """Write the values of some sub-environments; arrays and masks that do not exist yet are created.

    Args:
        infos: the arrays, which are changed.
        count: number of sub-environments.
        indices: the sub-environments.
        rows: the record of each of them.
        getters: keys, each with a function from a record to its value.
        default: the data type of keys that are not in `_DTYPES`.
    """
    where = np.array(indices)
    everyone = len(indices) == count and bool((where[:-1] < where[1:]).all())
    mask = np.zeros(count, np.bool_)
    mask[where] = True
    for key, get in getters:
        dtype = _DTYPES.get(key, default)
        if key == "noisy" and isinstance(get(rows[0]), tuple):
            dtype = object
        values = np.fromiter(map(get, rows), dtype, len(rows))  # np.array would turn tuples into a second axis
        if key in infos:
            infos[key][where] = values
            infos[f"_{key}"][where] = True
        else:
            column = values
            if not everyone:
                column = np.empty(count, object) if dtype is object else np.zeros(count, dtype)
                column[where] = values
            infos[key] = column
            infos[f"_{key}"] = mask.copy()
