"""`zerosearch view`: turn recorded transcripts into one HTML file that needs no network."""

from __future__ import annotations

import html
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..errors import ConfigError, DataError
from ..records.terminal import clean, html_style, render_html
from ..records.transcripts import noisy_flags, read_transcripts

_PAGE_STYLE = """
:root { color-scheme: light dark; --page: #eef1f5; --ink: #1b1f24; --soft: #5d6673; --line: #cfd6de; --card: #fff;
  --accent: #0b62c4;
  --good: #157347; --bad: #b02a37; --noise: #8a5300; }
@media (prefers-color-scheme: dark) { :root { --page: #0c0f12; --ink: #e5e9ee; --soft: #9aa5b1; --line: #323a44;
  --card: #14181d;
  --accent: #6cb0ff; --good: #5fcf95; --bad: #ff8d97; --noise: #f2b95c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.25rem 1rem 4rem; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
.facts { color: var(--soft); margin: 0 0 1rem; }
form { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .6rem; background: var(--page);
  padding: .6rem 0; }
select, input { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px;
  padding: .4rem .6rem; min-height: 2.6rem; }
input { flex: 1 1 12rem; min-width: 0; }
form output { flex-basis: 100%; color: var(--soft); font-size: .85rem; }
.item { background: var(--card); border: 1px solid var(--line); border-radius: 12px; margin: .5rem 0;
  overflow: hidden; }
.item > summary { display: flex; gap: .6rem; align-items: baseline; padding: .65rem .9rem; cursor: pointer;
  list-style: none; }
.item > summary::-webkit-details-marker { display: none; }
.item > summary b { font-weight: 550; flex: 1; overflow-wrap: anywhere; }
.item > summary span { font-size: .8rem; font-weight: 650; white-space: nowrap; color: var(--soft); }
.item > summary span.good { color: var(--good); } .item > summary span.bad { color: var(--bad); }
.item > summary span.noise { color: var(--noise); }
.item .zs-question { display: none; }
.item .zs-transcript { border: 0; border-top: 1px solid var(--line); border-radius: 0; margin: 0; }
@media (max-width: 34rem) {
  form { position: static; } select { flex: 1 1 8rem; min-width: 0; }
  .item > summary { flex-wrap: wrap; } .item > summary b { flex-basis: 100%; }
}
[hidden] { display: none !important; }
"""

_SCRIPT = """
const form = document.querySelector("form"), items = [...document.querySelectorAll(".item")];
function filter() {
  const verdict = form.verdict.value, noise = form.noise.value, words = form.words.value.toLowerCase().trim();
  let shown = 0;
  for (const item of items) {
    const fits = (verdict === "all" || item.dataset.verdict === verdict) &&
  (noise === "all" || item.dataset.noise === noise)
      && (!words || item.textContent.toLowerCase().includes(words));
    item.hidden = !fits;
    shown += fits;
  }
  form.count.value = `${shown} of ${items.length} transcripts`;
}
form.addEventListener("input", filter);
form.addEventListener("submit", event => event.preventDefault());
form.hidden = false;
filter();
"""


@dataclass(frozen=True)
class ViewConfig:
    """Turn recorded transcripts into one HTML file with filters. The page needs no network."""

    transcripts: Annotated[Path, tyro.conf.Positional]
    """The JSONL file with the transcripts."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("transcripts.html")
    """The HTML file to write."""
    limit: int = 1000
    """Maximum number of transcripts on the page; the last ones are kept."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch view`.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        Exit code 0.

    Raises:
        ZeroSearchError: the file cannot be read, or contains no transcript.
    """
    config = tyro.cli(ViewConfig, args=None if argv is None else list(argv), prog="zerosearch view")
    count, total = write_page(config.transcripts, config.output, limit=config.limit)
    left = "" if count == total else f" (the last ones; the file has {total}, see --limit)"
    print(f"wrote {count} transcripts{left} to {config.output}")
    return 0


def write_page(transcripts: str | Path, output: str | Path, *, limit: int = 1000) -> tuple[int, int]:
    """Write an HTML page with the transcripts of a file.

    Args:
        transcripts: JSONL file written by `TranscriptWriter`.
        output: HTML file; missing folders are created.
        limit: maximum number of transcripts on the page; the last ones are kept.

    Returns:
        Number of transcripts on the page, and number of transcripts in the file.

    Raises:
        ConfigError: the limit is below 1.
        DataError: the file cannot be read, or contains no transcript.
    """
    if limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}.")
    kept: deque[dict[str, Any]] = deque(maxlen=limit)
    total = 0
    for record in read_transcripts(transcripts):
        kept.append(record)
        total += 1
    if not kept:
        raise DataError(f"{transcripts} contains no finished transcript.")
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(render_page(kept, title=Path(transcripts).name, total=total), encoding="utf-8")
    return len(kept), total


def render_page(records: Iterable[Mapping[str, Any]], *, title: str, total: int | None = None) -> str:
    """A page with filters and all transcripts, each collapsed under its question.

    Args:
        records: records from `transcript_record`.
        title: heading of the page.
        total: number of transcripts before the limit was applied; None: the number of `records`.

    Returns:
        A complete HTML document that loads nothing. Without JavaScript it shows all transcripts and no filters.
    """
    records = list(records)
    name = html.escape(clean(title))
    left = f", the last {len(records)} of {total}" if total not in (None, len(records)) else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{name}</title>\n'
        f"<style>{_PAGE_STYLE}</style>\n{html_style()}</head>\n<body>\n<main>\n<h1>{name}</h1>\n"
        f'<p class="facts">{_facts(records)}{left}</p>\n{_FORM}{"".join(map(_item, records))}</main>\n'
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


_FORM = """<form hidden>
<select name="verdict" aria-label="Result"><option value="all">all results</option>
<option value="correct">correct</option>
<option value="wrong">wrong</option><option value="open">not finished</option></select>
<select name="noise" aria-label="Noise"><option value="all">any noise</option>
<option value="noisy">with noisy documents</option>
<option value="clean">without noisy documents</option></select>
<input name="words" type="search" placeholder="Filter by text" aria-label="Filter by text"><output name="count">
</output>
</form>
"""


def _facts(records: Sequence[Mapping[str, Any]]) -> str:
    scored = [record["scores"] for record in records if record["scores"] is not None]
    searches = [turn for record in records for turn in record["turns"] if turn["noisy"] is not None]
    facts = [f"{len(records)} transcripts"]
    if scored:
        facts.append(f"EM {sum(score['em'] for score in scored) / len(scored):.3f}")
        facts.append(f"F1 {sum(score['f1'] for score in scored) / len(scored):.3f}")
        facts.append(f"{sum(score['searches'] for score in scored) / len(scored):.2f} searches each")
    if searches:
        facts.append(f"{sum(any(noisy_flags(turn)) for turn in searches) / len(searches):.0%} of searches noisy")
    return " · ".join(facts)


def _verdict(record: Mapping[str, Any]) -> str:
    scores = record["scores"]
    if scores is None:
        return "open"
    return "correct" if scores["em"] == 1.0 else "wrong"


def _item(record: Mapping[str, Any]) -> str:
    verdict = _verdict(record)
    noisy = any(any(noisy_flags(turn)) for turn in record["turns"])
    mark = '<span class="noise">noisy</span>' if noisy else ""
    colour = {"correct": "good", "wrong": "bad", "open": ""}[verdict]
    extra = " · ".join(
        f"{key} {value}" for key, value in record["extra"].items() if isinstance(value, (str, int, float))
    )
    note = f"<span>{html.escape(clean(extra))}</span>" if extra else ""
    return (
        f'<details class="item" data-verdict="{verdict}" data-noise="{"noisy" if noisy else "clean"}">'
        f"<summary><b>{html.escape(clean(record['question']['text']))}</b>{note}{mark}"
        f'<span class="{colour}">{verdict}</span></summary>\n{render_html(record, style=False)}</details>\n'
    )
