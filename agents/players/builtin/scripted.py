"""Baselines that need no model: the lower bound and the upper bound of every score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zerosearch_env.game.answers import contains_answer
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.together import advance
from zerosearch_env.progress import WORK
from zerosearch_env.randomness import mix
from zerosearch_env.types import Step

from ..base import OnDone, Player, blocks
from .turns import NO_ANSWER, take_turns

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine


class ScriptedPlayer(Player):
    """Plays without a model: all episodes turn by turn, by the evaluation's own rules."""

    name: str

    def __init__(self, *, name: str | None = None) -> None:
        self.name = name or self.name

    def play(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode; see `Player.play`."""
        for block, done in blocks(episodes, on_done):
            steps: Mapping[int, Step | None] = dict.fromkeys(range(len(block)))
            while steps:
                texts = {i: self._act(block[i], step) for i, step in steps.items()}
                WORK.add(turns=len(texts))
                steps = take_turns(block, texts, engine, done, take=advance)

    def _act(self, episode: Episode, step: Step | None) -> str:
        """The text of the next turn; `step` is the latest one, None at the start of the episode."""
        raise NotImplementedError


class RandomPlayer(ScriptedPlayer):
    """Takes random, well-formed actions: the lower bound of every score.

    Each turn searches with probability 1/2 for one to four words of the question. Otherwise it answers with one to
    three consecutive words of the latest documents, or of the question if there are none.

    Args:
        seed: determines every action, together with the episode's seed and the turn.
        name: name in results.
    """

    name = "baseline:random"

    def __init__(self, *, seed: int = 0, name: str | None = None) -> None:
        super().__init__(name=name)
        self._seed = seed

    def _act(self, episode: Episode, step: Step | None) -> str:
        turn = len(episode.turns)

        def pick(count: int, what: int) -> int:
            return mix(episode.seed, self._seed, turn, what) % count

        question_words = episode.question.text.split() or [NO_ANSWER]
        protocol = episode.rules.protocol
        if not episode.last_turn and pick(2, 0):
            words = [question_words[pick(len(question_words), 2 + i)] for i in range(1 + pick(4, 1))]
            return protocol.render_search(" ".join(words))
        seen = step.documents[pick(len(step.documents), 7)].text.split() if step and step.documents else []
        words = seen or question_words
        start = pick(len(words), 8)
        return protocol.render_answer(" ".join(words[start : start + 1 + pick(3, 9)]).strip(" .,;:?!") or NO_ANSWER)


class OraclePlayer(ScriptedPlayer):
    """Sees the gold answer; searches until the documents contain it, then gives it.

    It is not a competitor: it shows what perfect reading and repeated searching could reach.

    If the dataset records the question's chain of relations (`world` does), the queries follow it: first the subject,
    then each intermediate entity as soon as the documents contain it. Without a chain it searches for the question's
    text.

    Args:
        name: name in results.
    """

    name = "baseline:oracle"

    def _act(self, episode: Episode, step: Step | None) -> str:
        question, protocol = episode.question, episode.rules.protocol
        if step is not None and step.answer_in_documents:
            return protocol.render_answer(question.answers[0])
        if episode.last_turn:
            return protocol.render_answer(NO_ANSWER)
        metadata = question.metadata or {}
        chain, relations = metadata.get("chain"), metadata.get("relations")
        if not chain or not relations or "subject" not in metadata:
            return protocol.render_search(question.text)
        entities = (metadata["subject"], *chain[:-1])
        read = " \x01 ".join(d.text for turn in episode.turns for d in turn.step.documents)
        hop = 0
        while hop + 1 < len(entities) and contains_answer(read, (entities[hop + 1],)):
            hop += 1
        return protocol.render_search(f"{relations[hop].replace('_', ' ')} of {entities[hop]}")
