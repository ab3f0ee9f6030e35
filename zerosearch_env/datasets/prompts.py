"""Prompts that come from the rows of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from ..game.rules import Rules
from ..protocols.base import check_prompt
from ..types import Question
from .files.tables import TableQuestions


def check_prompts(rules: Rules, questions: Sequence[Question]) -> None:
    """Check before the first episode that every question can be asked as the rules say.

    It costs nothing unless the prompts come from the dataset.

    Raises:
        DataError: the prompts come from the dataset, and a question has none.
        ConfigError: the prompt of the first question shows only tags of another protocol.
    """
    if not rules.dataset_prompts or not len(questions):
        return
    if isinstance(questions, TableQuestions):
        without = questions.first_without_prompt()
    else:
        without = next((index for index, question in enumerate(questions) if not question.prompt), None)
    if without is not None:
        rules.messages(questions[without])  # raises
    check_prompt(rules.protocol, rules.prompt(questions[0]))
