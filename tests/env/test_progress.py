from __future__ import annotations

import io
import threading
from collections.abc import Callable

from rich.console import Console

from zerosearch_env.progress import WORK, ProgressBar, Work, WorkCounts, work_figures


def written(
    every_s: float | None, work: Callable[[ProgressBar], None], *, live: Callable[[], str] | None = None
) -> str:
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    with ProgressBar("episodes", 3, every_s=every_s, live=live, console=console) as bar:
        work(bar)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_lines_appear_although_no_item_is_done() -> None:
    shown = threading.Event()
    asked: list[str] = []

    def live() -> str:
        asked.append("x")
        if len(asked) == 3:
            shown.set()
        return f"{len(asked)} turns"

    out = written(0.001, lambda bar: shown.wait(20), live=live)
    assert out.startswith("episodes 0/3  1 turns\nepisodes 0/3  2 turns\nepisodes 0/3  3 turns\n")


def test_without_live_figures_lines_come_with_items() -> None:
    def work(bar: ProgressBar) -> None:
        for _ in range(3):
            bar.advance("fine")

    assert written(3600, work) == "episodes 3/3  fine\n"
    assert written(None, work) == ""
    assert written(3600, work, live=lambda: "12 turns") == ""


def test_live_figures_follow_those_of_the_items() -> None:
    out = written(0.01, lambda bar: (bar.update(1, "EM 50 %"), threading.Event().wait(0.05)), live=lambda: "7 turns")
    assert "episodes 1/3  EM 50 %  7 turns  0:00:0" in out


def test_work_is_the_sum_over_threads_and_workers() -> None:
    work, shared = Work(), [0] * len(WorkCounts._fields)
    work.include(shared)
    worker = Work()
    worker.count_into(shared)

    def add() -> None:
        for _ in range(1000):
            work.add(turns=1, tokens=3)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    worker.add(turns=5)
    worker.add(tokens=7, read=11, requests=2, uncounted=1)
    for thread in threads:
        thread.join()
    assert work.total() == WorkCounts(turns=4005, tokens=12007, read=11, requests=4007, uncounted=1)
    assert shared == [5, 7, 11, 7, 1]


def test_figures_of_work_count_from_now_on() -> None:
    WORK.add(turns=3, tokens=5)
    figures = work_figures()
    assert figures() == "0 turns"
    WORK.add(turns=1200)
    assert figures() == "1,200 turns"
    WORK.add(tokens=34_000)
    assert figures().startswith("1,200 turns, 34,000 tokens (")
    assert figures().endswith("/s)")
