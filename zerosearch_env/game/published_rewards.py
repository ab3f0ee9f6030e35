"""Rewards as published systems were trained with: a score of the prediction and a judgement of the format.

They see the finished episode. The formulas are those of the references, with two differences that are the same
everywhere in this package: the prediction is the episode's (`Scores.prediction`), never a tag quoted in a thought; and
the notice before the last turn, which no reference has, is not part of the judged text.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from ..types import Question, Scores, Turn
from .published_scores import deepresearcher_f1, r1_searcher_cover_em, r1_searcher_f1, research_f1
from .rewards import exact_match, normalize_answer


class FinishedEpisode(Protocol):
    """What a reward may read of an episode that has ended; `Episode` has more."""

    question: Question
    rules: Any  # Any: `Rules`, whose module imports this one

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns, with the last one."""
        ...

    @property
    def scores(self) -> Scores | None:
        """The prediction and its scores; set, because the episode has ended. `reward` is still 0 here."""
        ...


_INSIDE = r"(?:(?!</?(?:think|search|information|answer)>).)*"
_SEARCH_R1_ORDER = re.compile(
    rf"\s*(?:<think>{_INSIDE}</think>\s*<search>{_INSIDE}</search>\s*<information>{_INSIDE}</information>\s*)*"
    rf"<think>{_INSIDE}</think>\s*<answer>{_INSIDE}</answer>\s*",
    re.DOTALL,
)
_INFORMATION = re.compile("<information>(.*?)</information>", re.DOTALL)
_R1_SEARCHER_MARKS = (
    "<|begin_of_query|>",
    "<|end_of_query|>",
    "<|begin_of_documents|>",
    "<|begin_of_documents|>\n",
    "<|begin_of_documents|>\n(1)",
    "<|end_of_documents|>",
    "<|end_of_documents|>\n\n",
)
"""Strings that a well-formed response holds equally often: once per search that found documents."""
_R1_SEARCHER_DOCUMENTS = re.compile(r"<\|begin_of_documents\|>.*?<\|end_of_documents\|>", re.DOTALL)
_CHINESE = re.compile("[\u4e00-\u9fff]")
_MOST_WORDS = 10


def search_r1_format(
    episode: FinishedEpisode, *, structure: float = 0.2, final: float = 0.1, retrieval: float = 0.0
) -> float:
    """The ladder of Search-R1 v0.3: exact match, and a part of the reward for format and retrieval.

        answer      well-formed                  not well-formed
        right       1                            1 - structure
        wrong       structure (+ retrieval)      final
        none        structure (+ retrieval)      0

    Well-formed: `<think>`, `<search>`, `<information>` any number of times, then `<think>`, `<answer>`, with only white
    space between the elements. The retrieval part is paid if an information block contains a gold answer.

    Args:
        episode: the finished episode.
        structure: paid for a well-formed response. The published runs use 0.2.
        final: paid for a wrong answer in a response that is not well-formed. The published runs use 0.1.
        retrieval: paid in addition for finding an answer, if the response is well-formed. The published script
            (train_ppo_format.sh) uses 0, the comments in the reference's code 0.1.

    Source: PeterGriffinJin/Search-R1, verl/utils/reward_score/qa_em_format.py; arXiv 2505.15117.
    """
    text, prediction, answers = _response(episode), _prediction(episode), episode.question.answers
    well_formed = _SEARCH_R1_ORDER.fullmatch(text) is not None
    if exact_match(prediction, answers):
        return 1.0 if well_formed else 1.0 - structure
    if not well_formed:
        return 0.0 if prediction is None else final
    golds = [normalize_answer(answer) for answer in answers]
    blocks = [normalize_answer(block) for block in _INFORMATION.findall(text)]
    return structure + (retrieval if any(gold in block for block in blocks for gold in golds) else 0.0)


def search_r1_retrieval(episode: FinishedEpisode) -> float:
    """`search_r1_format` with 0.1 for finding an answer."""
    return search_r1_format(episode, retrieval=0.1)


def r1_searcher(episode: FinishedEpisode) -> float:
    """R1-Searcher's reward for base models: `r1_searcher_f1`, minus 2 for any fault of format.

    Faults: queries and document blocks that do not pair up (a search without documents is one too); other than one
    `</think>` and one answer; an answer of more than 10 words, or with a query or documents in it; the word
    "assistant"; Chinese characters outside documents. Range: [-2, 1].

    Source: RUCAIBox/R1-Searcher, train/reward_server_qwen_zero.py.
    """
    text, prediction = _r1_searcher_response(episode), _prediction(episode)
    answer = text.rpartition("<answer>")[2].partition("</answer>")[0]
    fault = (
        _retrievals(text) is None
        or not _one_thought_and_answer(text)
        or "Assistant" in text
        or "assistant" in text
        or "begin_of_query" in answer
        or "begin_of_documents" in answer
        or len(answer.split()) > _MOST_WORDS
        or _speaks_chinese(text)
    )
    return r1_searcher_f1(prediction, episode.question.answers) - (2.0 if fault else 0.0)


def r1_searcher_stage1(episode: FinishedEpisode) -> float:
    """R1-Searcher's first stage for instruct models: learn to search, in the right format.

    1 if cover-EM else -1, plus 0.5 for at least one well-formed search, plus 0.5 for exactly one thought and one
    answer. Range: [-1, 2].

    Source: RUCAIBox/R1-Searcher, train/reward_server_llama_stage1.py.
    """
    text = _r1_searcher_response(episode)
    right = r1_searcher_cover_em(_prediction(episode), episode.question.answers)
    searched, tidy = bool(_retrievals(text)), _one_thought_and_answer(text)
    return (1.0 if right else -1.0) + 0.5 * searched + 0.5 * tidy


def r1_searcher_stage2(episode: FinishedEpisode) -> float:
    """R1-Searcher's second stage for instruct models: `r1_searcher_f1`, minus 1 for a fault of format.

    Faults: queries and document blocks that do not pair up; other than one thought and one answer; Chinese characters
    outside documents. Range: [-1, 1].

    Source: RUCAIBox/R1-Searcher, train/reward_server_llama_stage2.py.
    """
    text = _r1_searcher_response(episode)
    fault = _retrievals(text) is None or not _one_thought_and_answer(text) or _speaks_chinese(text)
    return r1_searcher_f1(_prediction(episode), episode.question.answers) - (1.0 if fault else 0.0)


def research(episode: FinishedEpisode) -> float:
    r"""ReSearch's reward: `research_f1`, or 0.1 if it is 0 and the format is right; 0 if the format is wrong.

    Right: thoughts are closed, and there is at least one; every search is followed by its result; exactly one answer,
    with a `\boxed{}`. An episode that ended without an answer gets 0. Range: [0, 1].

    Source: Agent-RL/ReCall, verl/utils/reward_score/re_search.py (branch re-search).
    """
    text, prediction = _response(episode, cut=False), _prediction(episode)
    if prediction is None or not _research_format(text):
        return 0.0
    return research_f1(prediction, episode.question.answers) or 0.1


def deepresearcher(episode: FinishedEpisode) -> float:
    """DeepResearcher's reward: `deepresearcher_f1`, or -1 if the format is wrong.

    Wrong: no answer, or thoughts, calls or answers that are not closed. A `</think>` without an opening tag closes the
    thought that the chat template has opened. Range: [-1, 1].

    Source: GAIR-NLP/DeepResearcher, the F1 reward of its `verl/utils/reward_score`.
    """
    # The chat template opens the thought of every turn.
    text = "".join(_with_opened_thought(turn.action_text) for turn in episode.turns).lower()
    prediction = _prediction(episode)
    if prediction is None or not all(_balanced(text, tag) for tag in ("tool_call", "think", "answer")):
        return -1.0
    return deepresearcher_f1(prediction, episode.question.answers)


def _prediction(episode: FinishedEpisode) -> str | None:
    return None if episode.scores is None else episode.scores.prediction


def _response(episode: FinishedEpisode, *, cut: bool = True) -> str:
    """The transcript after the prompt.

    Args:
        episode: the episode.
        cut: whether the last turn ends with the element that decided it, as in loops that cut every turn there.
    """
    turns = episode.turns
    parts: list[str] = []
    for turn in turns:
        parts += (turn.context_text, turn.step.observation.removesuffix(episode.rules.last_turn_notice))
    if turns and not cut:
        parts[-2] = turns[-1].action_text
    return "".join(parts)


def _with_opened_thought(text: str) -> str:
    """The text with the `<think>` that the prompt has opened, if its first thought has no opening tag."""
    opening, closing = text.find("<think>"), text.find("</think>")
    return f"<think>{text}" if closing >= 0 and not 0 <= opening < closing else text


def _r1_searcher_response(episode: FinishedEpisode) -> str:
    """The response without the `<think>` that opens it: R1-Searcher's prompt ends with that tag."""
    return _response(episode, cut=False).lstrip().removeprefix("<think>")


def _retrievals(text: str) -> int | None:
    """Number of searches in an R1-Searcher response; None if queries and documents do not pair up."""
    counts = {text.count(mark) for mark in _R1_SEARCHER_MARKS}
    return counts.pop() if len(counts) == 1 else None


def _one_thought_and_answer(text: str) -> bool:
    counts = [text.count(tag) for tag in ("<think>", "</think>", "<answer>", "</answer>")]
    return counts == [0, 1, 1, 1]


def _speaks_chinese(text: str) -> bool:
    return _CHINESE.search(_R1_SEARCHER_DOCUMENTS.sub("", text)) is not None


def _research_format(text: str) -> bool:
    thoughts = text.count("<think>")
    if not thoughts or thoughts != text.count("</think>"):
        return False
    if (text.count("<answer>"), text.count("</answer>")) != (1, 1):
        return False
    place = 0
    while (search := text.find("<search>", place)) >= 0:
        searched, result = text.find("</search>", search), text.find("<result>", search)
        place = text.find("</result>", result)
        if not search < searched < result < place:
            return False
    boxed, closed = text.find("\\boxed{", text.find("<answer>")), text.find("</answer>")
    return 0 <= boxed < text.find("}", boxed) < closed


def _balanced(text: str, tag: str) -> bool:
    """Whether elements of a tag are closed, each after its opening."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    return text.count(opening) == text.count(closing) and text.rfind(opening) <= text.rfind(closing)
