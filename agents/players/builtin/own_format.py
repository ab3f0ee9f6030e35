"""Baselines that use a policy in its own format, so that they differ from the agent only in their access to search.

`direct` answers without searching. The model writes one turn. If that turn is an answer, it is used. Otherwise the
player keeps the thought, cuts off the rest, appends the protocol's opening answer tag, and lets the model write the
answer.

`rag` searches once, with the question as the query. The model writes its first turn; the player keeps its thought and
replaces the action by a search for the question (`protocol.render_search`). (The thought is kept because a small
policy loses its format and reads worse without one.) The documents come back as for any policy, with the notice that
only an answer is allowed now. The model then writes its answer turn; if that is not an answer, one is forced as above.

`rag-own` is the same with the model's own query. If the model answers in its first turn, that answer is used. This is
the agent itself, limited to one search.

Forcing the tag gives every baseline its best chance: no trained policy loses a question because of its format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules
from zerosearch_env.game.together import advance, advance_all
from zerosearch_env.protocols import Protocol
from zerosearch_env.randomness import mix

from ..base import OnDone
from ..policy import PolicyPlayer
from .turns import NO_ANSWER, take_turns

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine
    from zerosearch_env.llm.chat_format import TurnEncoder


class Context(NamedTuple):
    """What a model reads before a turn."""

    ids: list[int]
    """Token ids of the episode so far."""
    opening: str = ""
    """The part of the turn that they contain already (`TurnEncoder.opening`)."""


class Written(NamedTuple):
    """A turn that a model has written."""

    text: str
    """With the context's opening."""
    ids: list[int]
    """Without it."""
    end: int | None = None
    """The end-of-sequence token that it ended with, if it did."""


class DirectPlayer(PolicyPlayer):
    """Answers without searching; see the module's docstring."""

    searches = False

    def play_here(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode in this process."""
        if episodes:
            self.answer(episodes, dict(enumerate(self._prompts(episodes, self._encoder(episodes)))), on_done)

    def answer(self, episodes: Sequence[Episode], contexts: Mapping[int, Context], on_done: OnDone | None) -> None:
        """Let the model end some episodes with an answer.

        Args:
            episodes: all episodes.
            contexts: position of each episode whose next action is the answer, and what the model reads before it.
            on_done: called with each of these positions.
        """
        if not contexts:
            return
        ending, rows = [episodes[position] for position in contexts], list(contexts.values())
        protocol = ending[0].rules.protocol
        seeds = [mix(episode.seed, len(episode.turns)) for episode in ending]
        texts = [turn.text for turn in self._sample(rows, protocol, seeds)]
        forced = [i for i, text in enumerate(texts) if protocol.parse(text).kind != "answer"]
        if forced:
            opening, closing = answer_tags(protocol)
            thoughts = [thought_before_action(texts[i], protocol, rows[i].opening) for i in forced]
            prefixes = [thought + opening for thought in thoughts]
            rest = [prefix[len(rows[i].opening) :] for i, prefix in zip(forced, prefixes, strict=True)]
            longer = [Context(rows[i].ids + ids) for i, ids in zip(forced, self._encode(rest), strict=True)]
            stops = (closing, *protocol.stop_strings) if closing else protocol.stop_strings
            samples = self._sample(longer, protocol, [seeds[i] for i in forced], stops)
            for i, thought, turn in zip(forced, thoughts, samples, strict=True):
                content = (turn.text.partition(closing)[0] if closing else turn.text).strip()
                texts[i] = thought + protocol.render_answer(content)
                if protocol.parse(texts[i]).kind != "answer":
                    texts[i] = protocol.render_answer(NO_ANSWER)
        advance_all([episodes[position] for position in contexts], texts, advance)
        for position in contexts:
            if on_done:
                on_done(position)

    def _encoder(self, episodes: Sequence[Episode]) -> TurnEncoder:
        from zerosearch_env.llm.chat_format import TurnEncoder

        return TurnEncoder(self.policy.tokenizer, episodes[0].rules, self.card.format)

    def _prompts(self, episodes: Sequence[Episode], encoder: TurnEncoder) -> list[Context]:
        return [Context(ids, encoder.opening()) for ids in encoder.prompts(episodes)]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        from zerosearch_env.llm.tokens import encode_texts

        return encode_texts(texts, self.policy.tokenizer)

    def _sample(
        self,
        rows: Sequence[Context],
        protocol: Protocol,
        seeds: Sequence[int],
        stop_strings: Sequence[str] | None = None,
    ) -> list[Written]:
        """Samples one turn per row. A row that fills the context is cut there.

        Turns are remembered at every temperature. The noise draws of different noise levels are coupled, so most
        searches return the same documents at the next level; the rows are then the same too, and so are their seeds.
        """
        sampler = self.make_remembering_sampler(len(rows), protocol, stop_strings)
        for number, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
            sampler.start(number, row.ids, seed)
        turns: dict[int, Written] = {}
        while len(turns) < len(rows):
            for sample in sampler.run():
                number = int(str(sample.key))
                ids, text = list(sample.token_ids), rows[number].opening + sample.text
                turns[number] = Written(text, ids, ids[-1] if sample.finish == "eos" else None)
                sampler.finish(number)
        return [turns[number] for number in range(len(rows))]


class RagPlayer(DirectPlayer):
    """One search with the question as query, then an answer; see the module's docstring."""

    searches = True

    def rules_for(self, rules: Rules) -> Rules:
        """The policy's rules with a single turn that may search."""
        return replace(super().rules_for(rules), max_turns=1)

    def play_here(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode in this process."""
        if not episodes:
            return
        encoder = self._encoder(episodes)
        rows = self._prompts(episodes, encoder)
        turns = self.first_turns(episodes, rows)
        steps = take_turns(episodes, {i: turn.text for i, turn in enumerate(turns)}, engine, on_done, take=advance)
        ends = [(turns[i].text, turns[i].end) for i in steps]
        observations = encoder.observations(list(steps.values()), ends)
        longer = {
            i: Context(rows[i].ids + turns[i].ids + ids, encoder.opening(steps[i], turns[i].end))
            for i, ids in zip(steps, observations, strict=True)
        }
        self.answer(episodes, longer, on_done)

    def first_turns(self, episodes: Sequence[Episode], rows: Sequence[Context]) -> list[Written]:
        """The first turn of each episode."""
        protocol = episodes[0].rules.protocol
        seeds = [mix(episode.seed, 0) for episode in episodes]
        texts = [
            question_search(turn.text, episode.question.text, protocol, row.opening)
            for turn, episode, row in zip(self._sample(rows, protocol, seeds), episodes, rows, strict=True)
        ]
        ids = self._encode([text[len(row.opening) :] for text, row in zip(texts, rows, strict=True)])
        return list(map(Written, texts, ids))


class OwnQueryRagPlayer(RagPlayer):
    """One search with the model's own query, then an answer; see the module's docstring."""

    def first_turns(self, episodes: Sequence[Episode], rows: Sequence[Context]) -> list[Written]:
        """The model's own first turn."""
        seeds = [mix(episode.seed, 0) for episode in episodes]
        return self._sample(rows, episodes[0].rules.protocol, seeds)


def answer_tags(protocol: Protocol) -> tuple[str, str]:
    """The strings before and after an answer in a protocol, for example `("<answer>", "</answer>")`.

    Spaces inside the tags are left to the model, since tokenizers join a space to the word after it.
    """
    opening, _, closing = protocol.render_answer(_MARK).partition(_MARK)
    return opening.rstrip(), closing.strip()


def question_search(text: str, question: str, protocol: Protocol, opened: str = "") -> str:
    """A model's turn, its action replaced by a search for the question, with the model's own spacing of queries.

    Args:
        text: the turn, with what its context contained of it.
        question: the new query.
        protocol: the policy's protocol.
        opened: the part of the turn that its context contained.
    """
    opening = protocol.render_search(_MARK).partition(_MARK)[0].rstrip()
    query = text.partition(opening)[2] if opening else ""
    space = query[: len(query) - len(query.lstrip())]
    search = protocol.render_search(question).replace(question, space + question, 1)
    return thought_before_action(text, protocol, opened) + search


def thought_before_action(text: str, protocol: Protocol, opened: str = "") -> str:
    """The part of a turn before its search: a finished thought, or only `opened` if the thought is not finished.

    Args:
        text: the turn, with what its context contained of it.
        protocol: the policy's protocol.
        opened: the part of the turn that its context contained; if it opens a thought, the thought is closed.
    """
    opening = protocol.render_search(_MARK).partition(_MARK)[0].strip()
    thought, separator, _ = text.partition(opening) if opening else ("", "", "")
    if not separator:
        head, closed, _ = text.partition("</think>")
        thought = head + closed if closed else ""
    if thought.count("<think>") == thought.count("</think>") and thought.startswith(opened):
        return thought
    return opened + "</think>\n" * (opened.count("<think>") > opened.count("</think>"))


_MARK = "MARK"
