"""Transcripts as HTML, and the string cleaning that all renderers share."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from .transcripts import noisy_flags

_KEPT = "\n\t"

_CSS = """
.zs-transcript {
  --zs-bg: #ffffff; --zs-ink: #1b1f24; --zs-soft: #5d6673; --zs-line: #d9dee5; --zs-card: #f6f8fa; --zs-accent: #0b62c4;
  --zs-good: #157347; --zs-good-bg: #e6f4ec; --zs-bad: #b02a37; --zs-bad-bg: #fbeaec; --zs-noise: #8a5300;
  --zs-noise-bg: #fff4de;
  color: var(--zs-ink); background: var(--zs-bg); border: 1px solid var(--zs-line); border-radius: 12px;
  padding: 1.1rem 1.25rem;
  margin: 1rem 0; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere;
}
@media (prefers-color-scheme: dark) {
  .zs-transcript {
    --zs-bg: #14181d; --zs-ink: #e5e9ee; --zs-soft: #9aa5b1; --zs-line: #323a44; --zs-card: #1c2229;
  --zs-accent: #6cb0ff;
    --zs-good: #5fcf95; --zs-good-bg: #14301f; --zs-bad: #ff8d97; --zs-bad-bg: #3a191d; --zs-noise: #f2b95c;
  --zs-noise-bg: #33270f;
  }
}
.zs-transcript p, .zs-transcript h4, .zs-transcript dl, .zs-transcript pre { margin: 0; }
.zs-transcript pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; }
.zs-question { font-size: 1.15rem; font-weight: 650; line-height: 1.35; }
.zs-chips { margin-top: .4rem !important; }
.zs-chip { display: inline-block; border: 1px solid var(--zs-line); border-radius: 999px; padding: 0 .55em;
  font-size: .8rem;
  font-weight: 500; color: var(--zs-soft); background: var(--zs-card); }
.zs-chip.zs-search { color: var(--zs-accent); border-color: currentColor; }
.zs-chip.zs-answer { color: var(--zs-ink); border-color: currentColor; }
.zs-chip.zs-invalid { color: var(--zs-bad); border-color: currentColor; }
.zs-chip.zs-found { color: var(--zs-good); border-color: currentColor; }
.zs-chip.zs-noisy { color: var(--zs-noise); background: var(--zs-noise-bg); border-color: currentColor; }
.zs-prompt { margin: .7rem 0 0; color: var(--zs-soft); }
.zs-prompt summary { cursor: pointer; font-size: .85rem; }
.zs-prompt pre { margin-top: .4rem; padding: .7rem; background: var(--zs-card); border-radius: 8px; }
.zs-turns { list-style: none; margin: 1rem 0 0; padding: 0; }
.zs-turn { border-left: 3px solid var(--zs-line); padding: 0 0 1.1rem 1rem; }
.zs-label { font-size: .85rem; color: var(--zs-soft); margin-bottom: .35rem !important; }
.zs-policy { background: var(--zs-card); border-radius: 8px; padding: .6rem .75rem; }
.zs-thought { color: var(--zs-soft); }
.zs-query { margin: .6rem 0 .4rem !important; font-weight: 600; color: var(--zs-accent); }
.zs-query::before { content: "→ "; }
.zs-documents { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); }
.zs-document { border: 1px solid var(--zs-line); border-radius: 8px; padding: .55rem .7rem; font-size: .88rem; }
.zs-document h4 { font-size: .88rem; font-weight: 650; }
.zs-document p { color: var(--zs-soft); margin-top: .2rem; }
.zs-is-noisy { border-color: var(--zs-noise); border-style: dashed; background: var(--zs-noise-bg); }
.zs-none { color: var(--zs-soft); font-style: italic; }
.zs-notice { margin-top: .5rem !important; color: var(--zs-soft); padding-left: .75rem;
  border-left: 2px solid var(--zs-bad); }
.zs-result { border: 1px solid var(--zs-line); border-radius: 8px; padding: .8rem .95rem; background: var(--zs-card); }
.zs-right { background: var(--zs-good-bg); border-color: var(--zs-good); }
.zs-wrong { background: var(--zs-bad-bg); border-color: var(--zs-bad); }
.zs-verdict { text-transform: uppercase; letter-spacing: .05em; font-size: .75rem; font-weight: 700;
  margin-right: .4rem; }
.zs-right .zs-verdict { color: var(--zs-good); }
.zs-wrong .zs-verdict, .zs-error { color: var(--zs-bad); }
.zs-gold { font-size: .9rem; margin-top: .2rem !important; }
.zs-result dl { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; margin-top: .6rem; }
.zs-result dt { font-size: .75rem; color: var(--zs-soft); }
.zs-result dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
@media (max-width: 34rem) { .zs-transcript { padding: .85rem; font-size: 14px; } .zs-turn { padding-left: .7rem; } }
"""


def clean(text: str) -> str:
    """Make a string safe to print: control and format characters become visible symbols or the replacement character.

    Line breaks and tabs are kept. Escape sequences, carriage returns, bidirectional overrides and lone surrogates have
    no effect any more.
    """
    if text.isprintable():
        return text
    return "".join(char if char in _KEPT or char.isprintable() else _picture(char) for char in text)


def _picture(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return " " if unicodedata.category(char) == "Zs" else "\ufffd"


def html_style() -> str:
    """The `<style>` element of `render_html`, for pages that show many transcripts and need it only once."""
    return f"<style>{_CSS}</style>\n"


def render_html(record: Mapping[str, Any], *, style: bool = True) -> str:
    """The transcript as a self-contained HTML fragment, for light and dark themes, desktop and phone.

    Args:
        record: a record from `transcript_record`.
        style: start with the `<style>` element; pass False if the page already has `html_style()`.

    Returns:
        One `<section>`. It loads nothing and runs no script.
    """
    question = record["question"]
    chips = [_chip(f"noise {record['noise_level']:.2f}"), _chip(record["protocol"])]
    if question["dataset"]:
        chips.append(_chip(f"{question['dataset']} · {question['id']}"))
    body = "".join(_html_turn(turn) for turn in record["turns"])
    return (
        f"{html_style() if style else ''}"
        '<section class="zs-transcript">\n'
        f'<header><p class="zs-question">{_escape(question["text"])}</p>'
        f'<p class="zs-chips">{"".join(chips)}</p></header>\n'
        f'<details class="zs-prompt"><summary>Prompt</summary><pre>{_escape(record["prompt"])}</pre></details>\n'
        f'<ol class="zs-turns">\n{body}</ol>\n{_html_result(record)}</section>\n'
    )


def no_documents(turn: Mapping[str, Any]) -> str:
    """The text to show for a search without documents."""
    return "not run: only an answer was allowed" if turn["noisy"] is None else "no documents"


def _escape(text: object) -> str:
    return html.escape(clean(str(text)))


def _chip(text: str, kind: str = "") -> str:
    return f'<span class="zs-chip {kind}">{_escape(text)}</span> '


_THOUGHT = re.compile(r"&lt;think&gt;.*?(?:&lt;/think&gt;|\Z)", re.DOTALL)


def _html_turn(turn: Mapping[str, Any]) -> str:
    policy = _THOUGHT.sub(
        lambda match: f'<span class="zs-thought">{match[0]}</span>', _escape(turn["action_text"].strip())
    )
    parts = [
        f'<li class="zs-turn"><p class="zs-label">Turn {turn["turn"]} {_chip(turn["action"], "zs-" + turn["action"])}'
    ]
    if turn["answer_in_documents"]:
        parts.append(_chip("documents hold the answer", "zs-found"))
    parts.append(f'</p>\n<pre class="zs-policy">{policy}</pre>\n')
    if turn["action"] == "search":
        cards = "".join(
            _html_document(number, document, noisy)
            for number, (document, noisy) in enumerate(zip(turn["documents"], noisy_flags(turn), strict=True), 1)
        )
        none = "" if cards else f'<p class="zs-none">{no_documents(turn)}</p>'
        parts.append(
            f'<p class="zs-query">{_escape(turn["query"] or "")}</p>\n<div class="zs-documents">{cards}{none}</div>\n'
        )
    elif turn["observation"]:
        parts.append(f'<pre class="zs-notice">{_escape(turn["observation"].strip())}</pre>\n')
    return "".join(parts) + "</li>\n"


def _html_document(number: int, document: Mapping[str, Any], noisy: bool) -> str:
    mark = _chip("noisy", "zs-noisy") if noisy else ""
    title = _escape(document["title"]) or "untitled"
    return (
        f'<article class="zs-document{" zs-is-noisy" if noisy else ""}"><h4>{number}. {title} {mark}</h4>'
        f"<p>{_escape(document['text'])}</p></article>\n"
    )


def _html_result(record: Mapping[str, Any]) -> str:
    reason = record["stop_reason"]
    if reason is None:
        return '<footer class="zs-result"><p>The episode is not finished.</p></footer>\n'
    error = f'<p class="zs-error">The search engine failed: {_escape(record["error"])}</p>' if record["error"] else ""
    scores = record["scores"]
    if scores is None:
        return f'<footer class="zs-result"><p>Ended: {_escape(reason)}</p>{error}</footer>\n'
    right = scores["em"] == 1.0
    prediction = "no answer" if scores["prediction"] is None else scores["prediction"]
    numbers = [
        ("EM", f"{scores['em']:.0f}"),
        ("F1", f"{scores['f1']:.2f}"),
        ("subEM", f"{scores['subem']:.0f}"),
        ("reward", f"{scores['reward']:g}"),
        ("searches", str(scores["searches"])),
        ("ended", str(reason)),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{_escape(value)}</dd></div>" for name, value in numbers)
    return (
        f'<footer class="zs-result {"zs-right" if right else "zs-wrong"}">{error}'
        f'<p><span class="zs-verdict">{"correct" if right else "wrong"}</span> '
        f'<strong class="zs-answer">{_escape(prediction)}</strong></p>'
        f'<p class="zs-gold">Gold: {_escape(" · ".join(record["answers"]))}</p><dl>{cells}</dl></footer>\n'
    )
