"""Rows for the datasets of trainers: one question, its prompt, and the noise that its episodes meet."""

from __future__ import annotations

from ..checks import check_whole_number
from ..datasets import DatasetSource
from ..game.episode import Episode
from ..game.noise import check_level
from ..game.rules import Rules, make_rules
from ..protocols import Protocol
from ..randomness import mix
from ..types import Dataset, Json
from .options import EnvOptions
from .setup import make_dataset


def rows(
    dataset: DatasetSource = "world",
    *,
    split: str = "train",
    protocol: str | Protocol = "zerosearch",
    noise_level: float = 0.0,
    seed: int = 0,
    count: int | None = None,
    answers: bool = False,
) -> list[dict[str, Json]]:
    """One row of plain JSON values per question, for TRL, SkyRL, verl and `datasets.Dataset.from_list`.

        question_id, question, prompt [{role, content}], noise_level, seed,
        extra_info {dataset, split, index, protocol}

    The question of a row is `dataset.questions[row["extra_info"]["index"]]`. Its noise is that of `evaluate` with the
    same `seed`: the row's seed is `mix(seed, index)`, which depends neither on the noise level nor on the other rows. A
    trainer that repeats a row for a group of rollouts thus gives all of them the same noise.

    Args:
        dataset: a name, a path, a `Dataset`, rows in memory, or several of these; see `load_dataset`.
        split: split of a named dataset.
        protocol: the protocol whose instruction is the prompt.
        noise_level: probability in [0, 1] that a search is noisy.
        seed: random seed of the noise.
        count: number of rows, the first questions of the dataset; None, or more than there are, takes all.
        answers: whether to include the gold answers, as `answers` and as `reward_spec {method, ground_truth}`. Leave
            them out unless the trainer itself needs them: a row travels to everything that can read the prompt.

    Returns:
        The rows, in the dataset's order. Seeds are signed 64-bit integers, the largest that Arrow tables and most
        JSON readers take; `Episode` and `Session` draw the same from `seed` and from `seed + 2**64`.

    Raises:
        ConfigError: an argument is invalid. For an unknown name, the message suggests the most similar valid one.
        DataError: the dataset cannot be read, has no questions, or a question has no answer.

    Example:
        >>> question = {"question": "What is the capital of France?", "answers": ["Paris"]}
        >>> row = rows([question], noise_level=0.25)[0]
        >>> row["question"], row["noise_level"], row["prompt"][0]["role"]
        ('What is the capital of France?', 0.25, 'user')
    """
    rules = make_rules(protocol=protocol)
    return make_rows(make_dataset(EnvOptions(dataset, split)), rules, check_level(noise_level), seed, count, answers)


def make_rows(
    data: Dataset, rules: Rules, noise_level: float | None, seed: int, count: int | None, answers: bool
) -> list[dict[str, Json]]:
    """The rows of a dataset; see `rows`. Without a noise level, the rows leave it to whoever plays them.

    Raises:
        ConfigError: an argument is invalid.
    """
    base = check_whole_number("seed", seed, 0)
    limit = None if count is None else check_whole_number("count", count)
    made: list[dict[str, Json]] = []
    for index, question in enumerate(data.questions[:limit]):
        episode = Episode(question, rules, noise_level=noise_level or 0.0, seed=mix(base, index))
        row: dict[str, Json] = {
            "question_id": question.id,
            "question": question.text,
            "prompt": [{"role": "user", "content": episode.prompt}],
            "noise_level": noise_level,
            "seed": _signed(episode.seed),
            "extra_info": {
                "dataset": question.dataset or data.name,
                "split": data.split,
                "index": index,
                "protocol": rules.protocol.name,
            },
        }
        if answers:
            row["answers"] = list(question.answers)
            row["reward_spec"] = {"method": "rule", "ground_truth": list(question.answers)}
        made.append(row)
    return made


def _signed(seed: int) -> int:
    """The same 64 bits as a signed integer."""
    return seed - (seed >> 63 << 64)
