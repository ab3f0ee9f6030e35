"""Progress of an evaluation on the terminal: a bar over all cells, and one line per finished cell."""

from __future__ import annotations

from collections.abc import Callable, Collection

from rich.console import Console

from zerosearch_env.progress import ProgressBar, work_figures

from .budget import money_text
from .display import percent, share
from .results import Cell, CellKey

_LINE_S = 30.0


class EvaluationDisplay(ProgressBar):
    """Shows a progress bar over all cells in a terminal, and prints one line per finished cell.

    The bar has the episodes, turns, tokens and what was spent so far, and the time that is left. Without a terminal
    they are a line every 30 seconds.

    Args:
        console: where to print.
        episodes: total number of episodes over all cells.
        counted: the cells whose episodes are in the total; the others are copies of these. None: all.
        spent: a function that says what was spent, such as `Meter.figures`.
    """

    def __init__(
        self,
        console: Console,
        episodes: int,
        *,
        counted: Collection[CellKey] | None = None,
        spent: Callable[[], str] | None = None,
    ) -> None:
        work = work_figures()

        def live() -> str:
            return ", ".join(filter(None, [work(), spent() if spent else ""]))

        super().__init__("episodes", episodes, every_s=_LINE_S, live=live, transient=True, console=console)
        self._counted, self._finished = counted, 0
        self._cell: CellKey | None = None

    def on_progress(self, cell: CellKey, done: int, em: float) -> None:
        """Show the progress of a cell: episodes done, and their mean EM."""
        if cell != self._cell:
            self._cell = cell
            self.skip(done - 1)  # those of an earlier run
        self.update(self._finished + done, f"{cell}: EM {100 * em:.0f} %")

    def on_cell(self, cell: Cell, taken_over: bool) -> None:
        """Print the line of a finished cell, including cells reused from an earlier run."""
        if self._counted is None or cell.key in self._counted:
            self._finished += cell.planned
            if cell.key != self._cell:
                self.skip(cell.planned)
        self.update(self._finished)
        s = cell.summary()
        named = {} if s.samples is None else s.samples.named()
        last = list(named)[-2:]  # pass@k and majority@k
        parts = [
            f"EM {percent(s.em)} %",
            *(f"{name} {share(named[name].mean)} %" for name in last),
            *(f"{g} {100 * cell.summary(g).em.mean:.0f} %" for g in cell.groups if g and len(cell.groups) > 1),
            *(f"{name} {100 * cell.summary(data_source=name).em.mean:.0f} %" for name in cell.data_sources),
            *(f"{name} {share(interval.mean)} %" for name, interval in s.extra.items()),
            f"{s.searches.mean:.2f} searches" if s.searches.n else "",
            f"{s.tokens_read:,} tokens read, {s.tokens_written:,} written"
            if s.tokens_read and s.tokens_written
            else "",
            f"{s.engine_failures} engine failures" if s.engine_failures else "",
            f"{s.agent_failures} agent failures" if s.agent_failures else "",
            f"{money_text(money)} money" if (money := (cell.spent or {}).get("money")) else "",
            "from an earlier run" if taken_over else f"{cell.seconds:.1f} s",
        ]
        self.print(f"  {cell.key}: {', '.join(filter(None, parts))}")
