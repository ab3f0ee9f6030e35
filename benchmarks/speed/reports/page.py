"""The report's page in a browser: seconds until 10,000 listed episodes are rendered, and until they are filtered.

Headless Chromium opens the page as a file, as a reader would, and is asked over its DevTools protocol. Rendered: the
page is loaded and its list has been drawn. Filtered: a filter was chosen and the shorter list has been drawn. Times are
wall times, medians of several visits by a browser that is running already; with the CPU time of its main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_agents.report.page import read_joined, write_page
from zerosearch_env.errors import ConfigError

from ...measure import make_parser, write_record
from .stored import play

if TYPE_CHECKING:
    import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
)
_DRAWN = "await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));"
_COUNT = "document.querySelector('.ze-count').textContent"
_FILTER = """const form = document.querySelector("#explorer form");
form.elements.kind.value = "counterfactual"; form.dispatchEvent(new Event("input"));"""
_SECONDS = 60.0
"""Time limit of an answer of the browser."""


@dataclass(frozen=True)
class PageTimes:
    """How long a reader waits for the page."""

    rendered_s: float
    """From the address until the list has been drawn."""
    filtered_s: float
    """From the choice of a filter until the shorter list has been drawn."""
    cpu_s: float
    """CPU time of the page's main thread, for both."""
    listed: str
    """What the page says about its list."""
    after_filter: str
    """The same after the filter."""


@contextlib.contextmanager
def _browser(chromium: str, profile: Path) -> Iterator[str]:
    """A running browser; gives the address of its DevTools."""
    process = subprocess.Popen(
        [chromium, *OPTIONS, f"--user-data-dir={profile}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        port, deadline = profile / "DevToolsActivePort", time.monotonic() + _SECONDS
        while not port.exists() or not port.read_text().strip():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ConfigError(f"{chromium} did not start: expected its port in {port}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port.read_text().split()[0]}"
    finally:
        process.terminate()
        process.wait()


async def _visit(session: aiohttp.ClientSession, devtools: str, page: Path) -> PageTimes:
    """Open the page in a new tab, and filter its list."""
    async with session.put(f"{devtools}/json/new?about:blank") as reply:
        tab = await reply.json(content_type=None)
    async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
        number = 0

        async def receive(wanted: Any) -> dict[str, Any]:
            while True:
                message: dict[str, Any] = json.loads(await socket.receive_str(timeout=_SECONDS))
                if wanted(message):
                    return message

        async def call(method: str, **parameters: Any) -> dict[str, Any]:
            nonlocal number
            number += 1
            await socket.send_json({"id": number, "method": method, "params": parameters})
            return await receive(lambda message: message.get("id") == number)

        async def evaluate(code: str) -> Any:
            options = {"awaitPromise": True, "returnByValue": True}
            answer = await call("Runtime.evaluate", expression=f"(async () => {{{code}}})()", **options)
            return answer["result"]["result"].get("value")

        await call("Page.enable")
        await call("Performance.enable", timeDomain="threadTicks")
        started = time.perf_counter()
        await call("Page.navigate", url=page.resolve().as_uri())
        await receive(lambda message: message.get("method") == "Page.loadEventFired")
        listed = await evaluate(f"{_DRAWN} return {_COUNT};")
        rendered = time.perf_counter() - started
        started = time.perf_counter()
        after = await evaluate(f"{_FILTER} {_DRAWN} return {_COUNT};")
        filtered = time.perf_counter() - started
        metrics = (await call("Performance.getMetrics"))["result"]["metrics"]
        cpu = next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
    async with session.get(f"{devtools}/json/close/{tab['id']}"):
        return PageTimes(rendered, filtered, cpu, listed, after)


async def measure_page(page: Path, chromium: str, profile: Path, visits: int) -> PageTimes:
    """Medians over several visits, after one that is not counted.

    Args:
        page: the HTML file.
        chromium: the browser's program.
        profile: an empty folder for the browser.
        visits: number of visits that count.

    Raises:
        ConfigError: the browser did not start.
    """
    import aiohttp  # when it is used: the command's help needs none of it

    with _browser(chromium, profile) as devtools:
        async with aiohttp.ClientSession() as session:
            times = [await _visit(session, devtools, page) for _ in range(visits + 1)][1:]
    return PageTimes(
        statistics.median(visit.rendered_s for visit in times),
        statistics.median(visit.filtered_s for visit in times),
        statistics.median(visit.cpu_s for visit in times),
        times[0].listed,
        times[0].after_filter,
    )


def main(argv: list[str] | None = None) -> int:
    """Play, write the page, measure, print, and write a JSON record."""
    parser = make_parser("report-page", __doc__)
    parser.add_argument("--questions", type=int, default=45, help="questions of each cell (45: 10,125 episodes)")
    parser.add_argument("--visits", type=int, default=7, help="visits that count (7)")
    arguments = parser.parse_args(argv)
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        raise ConfigError(f"there is no Chromium: install one of {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _, episodes = play(folder / "run", arguments.questions)
        page = write_page(read_joined([folder / "run"]), folder / "run" / "report.html")
        times = asyncio.run(measure_page(page, chromium, folder / "profile", arguments.visits))
        page_mb = page.stat().st_size / 1e6
    print(f"{episodes:,} episodes, page {page_mb:.1f} MB; {times.listed}")
    print(f"rendered after {times.rendered_s:.2f} s, filtered after {times.filtered_s:.2f} s: {times.after_filter}")
    print(f"CPU time of the page's main thread: {times.cpu_s:.2f} s")
    write_record(
        arguments.output, ["jinja2"], episodes=episodes, page_mb=page_mb, visits=arguments.visits, **asdict(times)
    )
    return 0
