"""The sample report in docs/: small, on its own, and with the figures of the committed records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from zerosearch_benchmarks.measure import RESULTS
from zerosearch_benchmarks.robustness.definitions import load_definition
from zerosearch_benchmarks.robustness.records import read_records

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sample-report.html"
SMALL = load_definition("v1-small")


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text("utf-8")


def listing(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'id="ze-listing">(.*?)</script>', page, re.DOTALL)
    values: dict[str, Any] = json.loads(text)
    return values


def test_it_is_small_and_on_its_own(page: str) -> None:
    assert PAGE.stat().st_size < 1_000_000
    assert not re.findall(r"(?:src|href)=\"(?!#)", page)
    data = listing(page)
    assert not [question for question in data["questions"] if question[6]]
    assert sum(question[5] >= 0 for question in data["questions"]) == 4
    assert f"v1-small ({SMALL.hash})" in page


def test_its_figures_are_those_of_the_committed_records(page: str) -> None:
    data = listing(page)
    letters = {"em": "r", "misled": "m", "abstained": "a"}
    records = {
        record["agent"]: record
        for record in read_records(RESULTS / "robustness")
        if record["definition"]["hash"] == SMALL.hash and record["agent"] in ("baseline:oracle", "baseline:random")
    }
    assert len(records) == 2
    for agent, record in records.items():
        outcomes = data["columns"][data["agents"].index(agent)]["outcomes"]
        for kind in SMALL.noise_kind:
            place = data["places"].index(["corpus", kind, 0.5, ""])
            at_half = [outcome for outcome, where in zip(outcomes, data["place"], strict=True) if where == place]
            for name, letter in letters.items():
                share = record["kinds"][kind][name]["mean"]
                assert at_half.count(letter) / record["questions"] == pytest.approx(share), (agent, kind, name)
