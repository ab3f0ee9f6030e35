"""Edits and damage of results.json are recognised by its hashes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from results import made_cell

from zerosearch_agents.evaluation.hashes import changed_parts
from zerosearch_agents.evaluation.results import Evaluation, load_evaluation, save_evaluation
from zerosearch_env.errors import DataError

EVALUATION = Evaluation(
    (
        made_cell((1.0, 0.0), agent="a", recall=1 / 3, extra={"research_f1": 0.1}),
        made_cell((0.0, 1.0), 0.5, "empty", agent="a"),
    ),
    {"seed": 0, "scores": ("research_f1",), "text": "é \u2028"},
)


def stored(folder: Path) -> dict[str, Any]:
    save_evaluation(EVALUATION, folder)
    values: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return values


def test_what_was_written_is_read_again_with_the_same_hashes(tmp_path: Path) -> None:
    values = stored(tmp_path)
    assert changed_parts(values) == []
    loaded = load_evaluation(tmp_path)
    assert loaded.cells == EVALUATION.cells
    assert loaded.as_dict()["hash"] == values["hash"]
    assert [cell.record["hash"] for cell in loaded.cells] == [cell["hash"] for cell in values["cells"]]
    (tmp_path / "results.json").write_text(json.dumps(values, indent=2, sort_keys=True))  # the layout does not matter
    assert load_evaluation(tmp_path).cells == EVALUATION.cells


def set_em(values: dict[str, Any]) -> None:
    values["cells"][1]["episodes"][0]["em"] = 1.0


def set_mean(values: dict[str, Any]) -> None:
    values["cells"][1]["summary"]["all"]["em"]["mean"] = 0.9


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (set_em, "the cell of 'a', corpus, noise 0.5 empty"),
        (set_mean, "the cell of 'a', corpus, noise 0.5 empty"),
        (lambda values: values["cells"][1].pop("hash"), "the cell of 'a', corpus, noise 0.5 empty"),
        (lambda values: values["cells"][1]["episodes"].pop(), "the cell of 'a', corpus, noise 0.5 empty"),
        (lambda values: values["cells"].pop(), "the settings or the list of cells"),
        (lambda values: values["settings"].update(seed=1), "the settings or the list of cells"),
    ],
)
def test_an_edited_file_is_refused_and_the_part_is_named(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], part: str
) -> None:
    values = stored(tmp_path)
    edit(values)
    assert changed_parts(values) == [part]
    (tmp_path / "results.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=f"was changed after it was written: {part}"):
        load_evaluation(tmp_path)


def test_files_without_hashes_are_read_as_they_are(tmp_path: Path) -> None:
    values = stored(tmp_path)
    del values["hash"], values["cells"][0]["hash"]
    set_em(values)
    assert changed_parts(values) == []
    (tmp_path / "results.json").write_text(json.dumps(values))
    assert load_evaluation(tmp_path).cells[1].episodes[0].em == 1.0
