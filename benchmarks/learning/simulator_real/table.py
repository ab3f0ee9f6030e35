"""The record of `zerosearch bench simulator-real` as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SHARES = (
    ("useful sets with an answer, %", "useful_with_answer", 0),
    ("with what was sought, before resampling, %", "useful_with_sought_before", 0),
    ("noisy sets with an answer, before the guard, %", "noisy_with_answer_before", -1),
    ("after it, %", "noisy_with_answer", -1),
)
"""Name, key, and the noise level where it exists: the first (0) or the last (1)."""
_STYLE = (("words", 3), ("word_pairs", 3), ("character_triples", 3), ("length", 1))
_MOST_EXAMPLES = 6


def markdown(record: Mapping[str, Any]) -> str:
    """Tables of the model before and after, of the policies, and some documents."""
    before, after = record["before"], record["after"]
    pairs, levels = record["pairs"], after["levels"]
    parts = [
        f"{pairs['train_useful'] + pairs['train_noisy']} training pairs, {levels[0]['searches']} held-out searches of "
        f"{after['questions']} questions per noise level. Figures with their 95 % intervals.",
        "",
        "| held-out searches | as downloaded | tuned |",
        "|---|---|---|",
    ]
    for name, key, level in _SHARES:
        parts.append(_row(name, (_figure(report["levels"][level][key], 100) for report in (before, after))))
    failed = (", ".join(str(level["failed"]) for level in report["levels"]) for report in (before, after))
    parts.append(_row("failed searches at noise 0 and 1", failed))
    for number, place in ((0, "useful"), (-1, "noisy")):
        for key, digits in _STYLE:
            name = f"{place} documents: distance of {key.replace('_', ' ')} from real ones"
            styles = (report["style"]["levels"][number]["engine"][key] for report in (before, after))
            parts.append(_row(name, (_figure(style, 1, digits) for style in styles)))
    parts.append(_row("probe of four searches", (_probe(record["fitness"][name]) for name in ("before", "after"))))
    attacks = after["attacks"]
    if attacks is not None:
        leaked = _figure(attacks["all"]["after"], 100)
        parts += ["", f"Under attack, {leaked} % of {attacks['all']['searches']} noisy sets hold an answer."]
    if "policies" in record:
        parts += ["", "## Policies, tested on BM25", "", *_policies(record["policies"])]
        for name, steps in record["training"].items():
            rewards = ", ".join(f"{step['reward']:.2f}" for step in steps if "reward" in step)
            parts += ["", f"Reward of the steps, {name}: {rewards}."]
    parts += ["", "## Held-out searches", ""]
    for example, untuned in zip(after["examples"][:_MOST_EXAMPLES], before["examples"], strict=False):
        parts.append(f"- {'noisy' if example['noisy'] else 'useful'}, `{example['query']}`")
        for name, texts in (
            ("tuned", example["documents"]),
            ("as downloaded", untuned["documents"] if untuned["query"] == example["query"] else ()),
            ("real", example["real"]),
        ):
            parts += [f"  - {name}: {text}" for text in texts]
    return "\n".join(parts) + "\n"


def _probe(found: Mapping[str, Any]) -> str:
    return (
        f"{'fit' if found['fit'] else 'not fit'}: {found['usable']} usable, {found['answered']} of 2 useful with the "
        f"answer, {found['leaks']} of 2 noisy with a leak"
    )


def _policies(figures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    levels = sorted({figure["noise"] for figure in figures})
    yield "| EM, % (searches) | " + " | ".join(f"noise {level:g}" for level in levels) + " |"
    yield "|---" * (len(levels) + 1) + "|"
    for name in dict.fromkeys(figure["policy"] for figure in figures):
        mine = {figure["noise"]: figure for figure in figures if figure["policy"] == name}
        yield _row(name, (f"{_figure(mine[at]['em'], 100)} ({mine[at]['searches']:.2f})" for at in levels))


def _row(name: str, cells: Iterator[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def _figure(interval: Mapping[str, Any], scale: float, digits: int = 0) -> str:
    if interval["mean"] is None:
        return "-"
    mean = f"{scale * interval['mean']:.{digits}f}"
    if interval["low"] is None:
        return mean
    return f"{mean} [{scale * interval['low']:.{digits}f}, {scale * interval['high']:.{digits}f}]"
