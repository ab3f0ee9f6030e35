"""Scores as published systems compute them, for comparing with their figures.

They differ from `em`, `f1` and `subem` in how they normalise a text and in what counts as a match; docs/rewards.md has
a table. Each is the best over the gold answers and lies in [0, 1]; a missing or blank prediction scores 0. A gold
answer that normalises to nothing ("The") is treated as in the reference, where it may match anything.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Sequence

from .rewards import ARTICLES, answer_tuple, normalize_answer

_CLOSED = frozenset(("yes", "no", "noanswer"))
"""Normalised answers that must match as a whole: they share no tokens with anything else."""
_MARKS_TO_BLANKS = dict.fromkeys(map(ord, string.punctuation), " ")
_R1_SEARCHER_TO_BLANKS = _MARKS_TO_BLANKS | dict.fromkeys(map(ord, "\u2018\u2019\u00b4"), " ")
_TRUTH = {"True": "yes", "False": "no"}


def zerosearch_em(prediction: str | None, answers: Sequence[str]) -> float:
    """1.0 if a gold answer is a substring of the prediction (both normalised as in SQuAD), else 0.0.

    ZeroSearch reports this as "EM" (`val/test_score_EM`), Search-R1 has the same test under the name subEM. Unlike our
    `em` it accepts longer predictions; unlike our `subem` it also matches inside words ("yesterday" contains "yes") and
    in predictions of any length.

    Source: Alibaba-NLP/ZeroSearch and PeterGriffinJin/Search-R1, verl/utils/reward_score/qa_em.py.
    """
    return _best(prediction, answers, normalize_answer, lambda text, gold: float(gold in text))


def research_f1(prediction: str | None, answers: Sequence[str]) -> float:
    """Token F1 in which yes, no and noanswer must match as a whole, with SQuAD's normalisation.

    Source: Agent-RL/ReCall, verl/utils/reward_score/re_search.py (branch re-search) and re_call.py.
    """
    return _best(prediction, answers, normalize_answer, _closed_f1)


def r1_searcher_em(prediction: str | None, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals a gold answer after `normalize_r1_searcher`, else 0.0.

    Source: RUCAIBox/R1-Searcher, evaluation/metric_eval_rule.py.
    """
    return _best(prediction, answers, normalize_r1_searcher, lambda text, gold: float(gold == text))


def r1_searcher_f1(prediction: str | None, answers: Sequence[str]) -> float:
    """Token F1 after `normalize_r1_searcher`, in which yes, no and noanswer must match as a whole.

    Source: RUCAIBox/R1-Searcher, evaluation/metric_eval_rule.py and train/reward_server_qwen_zero.py.
    """
    return _best(prediction, answers, normalize_r1_searcher, _closed_f1)


def r1_searcher_cover_em(prediction: str | None, answers: Sequence[str]) -> float:
    """Cover-EM: 1.0 if every token of a gold answer is a token of the prediction, in any order, else 0.0.

    Both are normalised by `normalize_r1_searcher`. Unlike our `subem`, tokens need not be in a row or in order, and the
    prediction may have any length.

    Source: RUCAIBox/R1-Searcher, evaluation/metric_eval_rule.py (`cover_exact_match_score_1`).
    """
    return _best(prediction, answers, normalize_r1_searcher, _covers)


def deepresearcher_em(prediction: str | None, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals a gold answer after `normalize_deepresearcher`, else 0.0.

    Source: GAIR-NLP/DeepResearcher, the F1 reward of its `verl/utils/reward_score`, with `val_type="em"`.
    """
    return _best(prediction, answers, normalize_deepresearcher, lambda text, gold: float(gold == text))


def deepresearcher_f1(prediction: str | None, answers: Sequence[str]) -> float:
    """Set-F1: F1 of the sets of words after `normalize_deepresearcher`. Repeated words count once, articles count.

    Source: GAIR-NLP/DeepResearcher, the F1 reward of its `verl/utils/reward_score`.
    """
    return _best(prediction, answers, normalize_deepresearcher, _set_f1)


def normalize_r1_searcher(text: str) -> str:
    """R1-Searcher's normalisation: punctuation becomes blanks; SQuAD deletes it.

    `True` and `False` become yes and no, letters become lower case, ASCII punctuation, single typographic quotation
    marks and acute accents become blanks, articles are removed, white space is collapsed.
    """
    lower = _TRUTH.get(text, text).lower().translate(_R1_SEARCHER_TO_BLANKS)
    return " ".join(ARTICLES.sub(" ", lower).split())


def normalize_deepresearcher(text: str) -> str:
    """DeepResearcher's normalisation: lower case, ASCII punctuation becomes blanks, white space is collapsed."""
    return " ".join(text.lower().translate(_MARKS_TO_BLANKS).split())


def _best(
    prediction: str | None,
    answers: Sequence[str],
    normalize: Callable[[str], str],
    compare: Callable[[str, str], float],
) -> float:
    """The best comparison of the prediction with a gold answer; 0.0 without a prediction."""
    golds = answer_tuple(answers)
    if prediction is None or not prediction.strip():
        return 0.0
    text = normalize(prediction)
    return max((compare(text, normalize(gold)) for gold in golds), default=0.0)


def _closed_f1(text: str, gold: str) -> float:
    if text != gold and (text in _CLOSED or gold in _CLOSED):
        return 0.0
    tokens, gold_tokens = text.split(), gold.split()
    common = (Counter(tokens) & Counter(gold_tokens)).total()
    return 2.0 * common / (len(tokens) + len(gold_tokens)) if common else 0.0


def _set_f1(text: str, gold: str) -> float:
    tokens, gold_tokens = set(text.split()), set(gold.split())
    common = len(tokens & gold_tokens)
    return 2.0 * common / (len(tokens) + len(gold_tokens)) if common else 0.0


def _covers(text: str, gold: str) -> float:
    return float(set(gold.split(" ")) <= set(text.split(" ")))  # one empty token if nothing is left, as there
