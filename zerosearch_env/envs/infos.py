"""The `info` of a reset and of a step: a dict for one environment, arrays with masks for a vector environment.

The keys of a step's info are attribute names of `Step` and `Scores`, so both forms are read from the same records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from ..types import Step

Infos = dict[str, Any]

RESET_KEYS = ("question", "question_id", "noise_level", "progress")
"""Keys of the info of a reset."""
STEP_KEYS = (
    "action",
    "query",
    "documents",
    "noisy",
    "noise_level",
    "answer_in_documents",
    "turn",
    "stop_reason",
)
"""Keys present at every step: attributes of `Step`."""
SCORE_KEYS = ("prediction", "answers", "em", "f1", "subem", "em_unicode", "f1_unicode", "searches")
"""Additional keys at the end of an episode: attributes of `Scores`. Gold answers never appear before the end."""

_DTYPES: Mapping[str, Any] = {
    **dict.fromkeys(("noise_level", "progress", "em", "f1", "subem", "em_unicode", "f1_unicode"), np.float64),
    **dict.fromkeys(("turn", "searches"), np.int64),
}
"""Keys with numeric arrays. Every other key has an object array, with None for sub-environments without a value."""

_RESET_GETTERS = [(key, itemgetter(key)) for key in RESET_KEYS]
_STEP_GETTERS = [(key, attrgetter(key)) for key in STEP_KEYS]
_SCORE_GETTERS = [(key, attrgetter(key)) for key in SCORE_KEYS]


def step_info(step: Step) -> Infos:
    """The `info` of a step. Gold answers and scores are present only at the end of an episode."""
    # Written out: this runs at every step, and `attrgetter` with `zip` takes five times as long.
    info: Infos = {
        "action": step.action,
        "query": step.query,
        "documents": step.documents,
        "noisy": step.noisy,
        "noise_level": step.noise_level,
        "answer_in_documents": step.answer_in_documents,
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
        if step.error is not None:
            info["error"] = step.error
    return info


def batch_infos(count: int, starts: Mapping[int, Infos], steps: Mapping[int, Step]) -> Infos:
    """The infos of all sub-environments as arrays of length `count`, each with a mask under `_key`.

    Args:
        count: number of sub-environments.
        starts: infos of the sub-environments that were reset, by index.
        steps: steps of the sub-environments that played a turn, by index. No index is in both mappings.

    Returns:
        Numeric arrays for numbers, object arrays for everything else.
    """
    infos: Infos = {}
    if starts:
        _write(infos, count, list(starts), list(starts.values()), _RESET_GETTERS)
    if steps:
        indices, rows = list(steps), list(steps.values())
        _write(infos, count, indices, rows, _STEP_GETTERS)
        ended = [(index, step) for index, step in zip(indices, rows, strict=True) if step.scores is not None]
        if ended:
            _write(infos, count, [index for index, _ in ended], [step.scores for _, step in ended], _SCORE_GETTERS)
            failed = {index: step for index, step in ended if step.error is not None}
            if failed:
                _write(infos, count, list(failed), list(failed.values()), [("error", attrgetter("error"))])
    return infos


def _write(
    infos: Infos, count: int, indices: Sequence[int], rows: Sequence[Any], getters: Iterable[tuple[str, Any]]
) -> None:
    """Write the values of some sub-environments; arrays and masks that do not exist yet are created."""
    where = np.array(indices)
    everyone = len(indices) == count and bool((where[:-1] < where[1:]).all())
    mask = np.zeros(count, np.bool_)
    mask[where] = True
    for key, get in getters:
        dtype = _DTYPES.get(key, object)
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
