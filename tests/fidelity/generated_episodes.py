r"""Generated episodes: what policies write, in five equal classes, and the passages of a stand-in engine.

- `realistic`: a thought, then one action, in the form that the published prompts ask for.
- `run-on`: the policy does not stop after its action; it makes up results, actions and answers.
- `no-thought`: only the action.
- `open-thought`: a thought that is never closed, with the action inside it.
- `adversarial`: a realistic episode with a turn that tests the parser: quoted, nested, crossed, empty and stray tags,
  several actions, broken JSON, odd characters, soup.

Everything is a function of a seed. The passages depend on the query and on nothing else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from published_loops import Passage

CLASSES = ("realistic", "run-on", "no-thought", "open-thought", "adversarial")

_WORDS = (
    "river capital author founded largest museum bridge year born director film album team league castle mountain "
    "war treaty species island empire chemist novel opera station harbour bishop county railway painter"
).split()
_NAMES = (
    "Paris|Lake Garda|Ada Lovelace|Müller & Sons|São Paulo|O'Brien|1984|The Hague|Wolves of the Range|北京|"
    "U.S. Route 66"
).split("|")
_REASONS = (
    "I need to find out more about this.",
    "The question asks for a place.\nLet me see.",
    "First I look up the person, then the year.",
    "If 3 < 4 and a > b, the first one is older.",
    "Doc 1 says so; the other ones don't.",
    "",
)
_KINDS = {"deepresearcher": "call", "hermes": "call", "r1-searcher": "r1"}


@dataclass(frozen=True)
class Script:
    """One episode: a class and what the policy writes, turn by turn."""

    kind: str
    turns: tuple[str, ...]


def passages(query: str, number: int) -> list[Passage]:
    """What the stand-in engine finds; one search in two hundred finds something odd."""
    random_ = random.Random(f"{query}/{number}")
    found = []
    for index in range(number):
        title = random_.choice(_NAMES)
        text = f"{title} is a {_some_words(random_, 3, 12)}. It is near {random_.choice(_NAMES)} (see 2 < 3)."
        found.append(Passage(title, text, f"https://example.org/{index}/{random_.randrange(10**6)}"))
    odd = random_.random()
    if odd >= 0.005:
        return found
    title, text, url = found[0].title, found[0].text, found[0].url
    oddities = [
        [],
        [Passage("", text, url)],
        [Passage(title, text.replace(" ", "\u200e ", 1), url)],
        [Passage(title, f"{text} ", url)],
        [Passage(title, text.replace(". ", ".\n", 1), url)],
        [Passage(title, f"{text} <search>x</search>", url)],
    ]
    return random_.choice(oddities) + found[1:] * (odd < 0.004)


def _some_words(random_: random.Random, low: int, high: int) -> str:
    return " ".join(random_.choice(_WORDS) for _ in range(random_.randint(low, high)))


class Writer:
    """A policy of one protocol that writes at random."""

    def __init__(self, protocol: str, seed: object) -> None:
        self.protocol = protocol
        self.form = _KINDS.get(protocol, "tags")
        self.random = random.Random(f"{protocol}/{seed}")

    # The parts of turns

    def query(self) -> str:
        pick = self.random.random()
        words = f"{_some_words(self.random, 1, 6)} {self.random.choice(_NAMES)}"
        return f"Who is {words}?" if pick < 0.3 else words

    def reason(self) -> str:
        return self.random.choice(_REASONS)

    def final(self) -> str:
        return self.random.choice(_NAMES)

    def search(self, query: str | None = None) -> str:
        query = self.query() if query is None else query
        pad = self.random.choice(["", "", " ", "\n"])
        if self.form == "tags":
            return f"<search>{pad}{query}{pad}</search>"
        if self.form == "r1":
            quoted = f'"{query}"' if self.random.random() < 0.2 else query
            return f"<|begin_of_query|>{pad}{quoted}{pad}<|end_of_query|>"
        return "".join(self.call(query) for _ in range(self.random.choice([1, 1, 1, 2]) if self.many else 1))

    @property
    def many(self) -> bool:
        return self.protocol == "hermes"

    def call(self, query: str) -> str:
        if self.protocol == "hermes":
            value: object = {"name": "wikipedia_search", "arguments": {"query": query}}
        else:
            queries = [query, *(self.query() for _ in range(self.random.choice([0, 0, 1, 2, 3])))]
            value = {"name": "web_search", "arguments": {"query": queries}}
        text = json.dumps(value, ensure_ascii=self.random.random() < 0.3)
        return (
            f"<tool_call>\n{text}\n</tool_call>\n" if self.random.random() < 0.8 else f"<tool_call>{text}</tool_call>"
        )

    def answer(self, text: str | None = None) -> str:
        text = self.final() if text is None else text
        if self.protocol == "hermes":
            return f"The answer is \\[ \\boxed{{{text}}} \\]."
        if self.protocol == "research":
            return f"<answer> The answer is \\[ \\boxed{{{text}}} \\]. </answer>"
        return self.random.choice(
            [f"<answer>{text}</answer>", f"<answer> {text} </answer>", f"<answer>\n{text}\n</answer>"]
        )

    def results(self) -> str:
        inside = f"Doc 1(Title: {self.final()}) {_some_words(self.random, 2, 8)}."
        if self.form == "r1":
            return f"\n\n<|begin_of_documents|>\n(1){inside}\n<|end_of_documents|>\n\n"
        name = {"research": "result", "hermes": "tool_response", "deepresearcher": "tool_response"}.get(
            self.protocol, "information"
        )
        return f"\n<{name}>\n{inside}\n</{name}>\n"

    def thought(self, text: str | None = None) -> str:
        """A closed thought; where the prompt has opened it, without `<think>`."""
        text = self.reason() if text is None else text
        opened = self.form in ("r1", "call") and self.random.random() < 0.9
        return f"{'' if opened else '<think>'}{text}</think>\n"

    # Turns

    def turn(self, kind: str, last: bool) -> str:
        action = self.answer() if last else self.search()
        if kind == "no-thought":
            return action
        if kind == "open-thought":
            return f"{'' if self.form == 'r1' else '<think>'}{self.reason()} {action}"
        if self.form == "r1" and not last:
            return f"{self.reason()} {action}"  # searches are part of the one long thought
        text = self.thought() + action
        return text + self.run_on(last) if kind == "run-on" else text

    def run_on(self, last: bool) -> str:
        if last:
            return self.random.choice(["\n", f" {self.final()}.\n\nQuestion: who is {self.final()}?\n", self.results()])
        parts = [self.results(), f"So it is {self.final()}. "]
        more = self.random.random()
        if more < 0.3 and self.form != "call":  # a new thought would be a new turn there
            parts.append(f"<think>{self.reason()}</think>\n")
        if more < 0.6:
            parts.append(self.search())
        if more > 0.5:
            parts.append(self.answer())
        return "".join(parts)

    # Turns that test the parser

    def adversarial(self) -> str:
        shapes: list[Callable[[], str]] = [
            *[self.soup, self.two_actions] * 2,
            *[self.unfinished, self.copied_notice, self.prose, self.misspelt] * 6,
            self.quoted_in_thought, self.second_thought, self.crossed, self.nested, self.stray, self.odd_query,
            self.empty,
        ]  # fmt: skip
        if self.form == "call":
            shapes += [self.odd_call, self.pages, self.pages]
        return self.random.choice(shapes)()

    def empty(self) -> str:
        blank = self.random.choice(["", " ", "\n"])
        return self.thought() + self.random.choice([self.search(blank), self.answer(blank)])

    def quoted_in_thought(self) -> str:
        return self.thought(f"I may write {self.search()} or not. ") + self.random.choice(
            [self.search(), self.answer()]
        )

    def two_actions(self) -> str:
        return self.thought() + " ".join(self.random.sample([self.search(), self.search(), self.answer()], 2))

    def nested(self) -> str:
        search = self.search()
        middle = self.random.randrange(len(search))
        return (
            self.thought()
            + search[:middle]
            + self.random.choice([self.search(), self.answer(), "<think>"])
            + search[middle:]
        )

    def crossed(self) -> str:
        action = self.random.choice([self.search(), self.answer()])
        half = len(action) // 2
        return action[half:] + self.reason() + action[:half]

    def stray(self) -> str:
        tags = self.tags()
        return f"{self.random.choice(tags)} {self.thought()}{self.random.choice(tags)} {self.search()}"

    def soup(self) -> str:
        parts = [*self.tags(), "<think>", "</think>", self.query(), self.final(), " ", "\n", self.search(), "<", ">"]
        return "".join(self.random.choice(parts) for _ in range(self.random.randint(1, 10)))

    def odd_query(self) -> str:
        odd = [
            "a  b", "first\nsecond", "x <b>y</b>", "q" * 600, "\u200bhidden", '"quoted" word', "it's ... so", "e\u0301",
            "{braces}", "back\\slash", "1 < 2", "50 %",
        ]  # fmt: skip
        query = self.random.choice(odd)
        return self.thought() + (self.call(query) if self.form == "call" else self.search(query))

    def unfinished(self) -> str:
        text = self.thought() + self.random.choice([self.search(), self.answer()])
        return text[: self.random.randrange(len(text))]

    def misspelt(self) -> str:
        return self.thought() + self.random.choice(
            ["<Search>q</Search>", "< search >q</ search >", "<ANSWER>a</ANSWER>", "[search]q[/search]"]
        )

    def copied_notice(self) -> str:
        if self.form == "tags":
            return (
                "My query belongs between <search> and </search>, my answer between <answer> and </answer>. "
                + self.search()
            )
        return self.thought() + self.results() + self.search()

    def second_thought(self) -> str:
        return (
            self.thought()
            + self.search()
            + f"<think>{self.reason()}</think>\n"
            + self.random.choice([self.search(), self.answer()])
        )

    def prose(self) -> str:
        return self.thought() + self.random.choice(
            [f"It is {self.final()}.", "", "I don't know. \\boxed", "\\boxed{a{b}c}"]
        )

    def odd_call(self) -> str:
        good = '{"name": "search", "arguments": {"query": "q"}}'
        odd = [
            "not JSON", "{}", "[]", '{"name": "search"}', '{"name": "get_weather", "arguments": {"city": "Rome"}}',
            '{"name": "search", "arguments": {"query": "q", "top_n": 2}}', good[:-1], good.replace("q\"", "q\n\""),
            good.replace('"', "'"), '{"name": "web_search", "arguments": {"query": "one text"}}',
            '{"name": "web_search", "arguments": {"query": []}}',
            '{"name": "web_search", "arguments": {"query": [1, "a"]}}',
            '{"name": "web_search", "arguments": {}}', '{"name": "search", "arguments": "text"}', good + good,
        ]  # fmt: skip
        call = f"<tool_call>{self.random.choice(odd)}</tool_call>"
        return self.thought() + (call + self.search() if self.random.random() < 0.3 else call)

    def pages(self) -> str:
        if self.protocol == "hermes":
            return self.thought() + self.call(self.query()) + self.call(self.query()) + self.call(self.query())
        shown = [["PAGE 0"], ["PAGE 1"], ["PAGE 0", "PAGE 1"]]
        urls = self.random.choice([*shown, *shown, *shown, ["https://example.org/none"], []])
        value = {"name": "browse_webpage", "arguments": {"url_list": urls}}
        return self.thought() + f"<tool_call>\n{json.dumps(value)}\n</tool_call>"

    def tags(self) -> list[str]:
        if self.form == "tags":
            return ["<search>", "</search>", "<answer>", "</answer>"]
        if self.form == "r1":
            return ["<|begin_of_query|>", "<|end_of_query|>", "<answer>", "</answer>", "<|im_end|>"]
        tags = ["<tool_call>", "</tool_call>", "\\boxed{", "}"]
        return tags if self.protocol == "hermes" else [*tags[:2], "<answer>", "</answer>"]


def script(protocol: str, seed: int) -> Script:
    """The episode with this number: classes take turns."""
    writer = Writer(protocol, seed)
    kind = CLASSES[seed % len(CLASSES)]
    length = writer.random.choice([1, 2, 2, 3, 3, 4, 7])
    if kind != "adversarial":
        answers = writer.random.random() < 0.9
        return Script(kind, tuple(writer.turn(kind, answers and k == length - 1) for k in range(length)))
    turns = [writer.turn("realistic", k == length - 1) for k in range(length)]
    turns.insert(writer.random.randrange(length), writer.adversarial())
    return Script(kind, tuple(turns))
