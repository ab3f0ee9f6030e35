"""`info`: what a reset and a step say, for one environment as a dict and for many as arrays with masks.

The keys of a step are names of attributes of `Step` and `Scores`, so that both forms read the same record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from ..types import Step

Infos = dict[str, Any]

RESET_KEYS = ("question", "question_id", "noise_level", "progress")
"""Said at a reset."""
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
"""Said at every step: attributes of `Step`."""
SCORE_KEYS = ("prediction", "answers", "em", "f1", "subem", "searches")
"""Said at the end of an episode too: attributes of `Scores`. Gold answers appear nowhere before."""

_DTYPES: Mapping[str, Any] = {
    "noise_level": np.float64,
    "progress": np.float64,
    "turn": np.int64,
    "searches": np.int64,
    "em": np.float64,
    "f1": np.float64,
    "subem": np.float64,
}
"""Keys whose values are always numbers; every other key is an object array, None where nothing was said."""

_RESET_GETTERS = [(key, itemgetter(key)) for key in RESET_KEYS]
_STEP_GETTERS = [(key, attrgetter(key)) for key in STEP_KEYS]
_SCORE_GETTERS = [(key, attrgetter(key)) for key in SCORE_KEYS]


def step_info(step: Step) -> Infos:
    """The `info` of a step; gold answers and scores only at the end of an episode."""
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
        info["searches"] = scores.searches
        if step.error is not None:
            info["error"] = step.error
    return info


def batch_infos(count: int, starts: Mapping[int, Infos], steps: Mapping[int, Step]) -> Infos:
    """The infos of all sub-environments as arrays of length `count`, each with its mask `_key`.

    Args:
        count: number of sub-environments.
        starts: infos of those that were reset, by index.
        steps: of those that played a turn, by index; no index is in both.

    Returns:
        Numbers as numeric arrays, everything else as object arrays.
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
    """Write the columns of some sub-environments, making arrays and masks where there are none yet."""
    where = np.array(indices)
    everyone = len(indices) == count and bool((where[:-1] < where[1:]).all())
    said = np.zeros(count, np.bool_)
    said[where] = True
    for key, get in getters:
        dtype = _DTYPES.get(key, object)
        values = np.fromiter(map(get, rows), dtype, len(rows))  # numpy would take tuples in a list for a second axis
        if key in infos:
            infos[key][where] = values
            infos[f"_{key}"][where] = True
        else:
            column = values
            if not everyone:
                column = np.empty(count, object) if dtype is object else np.zeros(count, dtype)
                column[where] = values
            infos[key] = column
            infos[f"_{key}"] = said.copy()
