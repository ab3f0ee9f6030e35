"""The measuring itself: turns, medians, records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from zerosearch_benchmarks import cli
from zerosearch_benchmarks.measure import Case, Timing, alternating, measure, middle, print_timings, write_record
from zerosearch_env.errors import ConfigError


class Clock:
    """A clock that the measured work moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float, items: int) -> Callable[[], int]:
        def run() -> int:
            self.now += seconds
            self.order.append(name)
            return items

        return run


def test_time_per_item() -> None:
    clock = Clock()
    cases = [Case("a", clock.work("a", 0.5, 100)), Case("b", clock.work("b", 0.5, 10))]
    timings = measure(cases, rounds=3, seconds=1.0, clock=clock)
    assert timings["a"].median == pytest.approx(5_000.0)
    assert timings["b"].median == pytest.approx(50_000.0)
    assert (len(timings["a"].values), timings["a"].items) == (3, 600)


def test_cases_take_turns_and_warm_up() -> None:
    clock = Clock()
    measure([Case(name, clock.work(name, 1.0, 1)) for name in "ab"], rounds=3, seconds=1.0, clock=clock)
    assert "".join(clock.order) == "ab" + "ab" + "ba" + "ab"


def test_every_second_round_is_reversed() -> None:
    assert "".join(alternating("abc", 3)) == "abc" + "cba" + "abc"
    assert middle([5, 1, 9], key=lambda value: -value) == 5


def test_a_turn_runs_at_least_once() -> None:
    clock = Clock()
    timings = measure([Case("a", clock.work("a", 0.25, 1))], rounds=4, seconds=0.0, clock=clock)
    assert timings["a"].items == 4


def test_a_ratio_is_the_median_over_rounds() -> None:
    ours = Timing("ours", 2.0, 1.0, 20.0, 3, (1.0, 20.0, 2.0))
    peer = Timing("peer", 4.0, 2.0, 10.0, 3, (2.0, 10.0, 4.0))  # the second round was slow for both
    assert ours.over(peer) == 0.5


def test_quartiles() -> None:
    clock = Clock()
    durations = iter([9.0, 4.0, 1.0, 2.0, 3.0, 5.0])

    def run() -> int:
        clock.now += next(durations)
        return 1

    timing = measure([Case("a", run)], rounds=5, seconds=0.5, clock=clock)["a"]
    assert (timing.low, timing.median, timing.high) == (2e6, 3e6, 4e6)


def test_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timings = {"a": Timing("a", 4.0, 3.0, 5.0, 1000, (3.0, 4.0, 5.0))}
    write_record(tmp_path / "deep" / "record.json", ["numpy", "no-such-thing"], timings=timings, ratios={"x": 2.0})
    record = json.loads((tmp_path / "deep" / "record.json").read_text())
    assert record["timings"]["a"]["median"] == 4.0
    assert record["ratios"] == {"x": 2.0}
    assert list(record["machine"]["libraries"]) == ["zerosearch-env", "numpy"]
    assert record["unit"].startswith("CPU microseconds")
    print_timings(timings, "step")
    assert "4.00 (3.00-5.00)" in capsys.readouterr().out


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.BENCHMARKS)
    with pytest.raises(ConfigError, match="Did you mean 'env-real-text'"):
        cli.main(["env-reel-text"])


@pytest.mark.parametrize("name", cli.BENCHMARKS)
def test_every_benchmark_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert f"zerosearch bench {name}" in capsys.readouterr().out
