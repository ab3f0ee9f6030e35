"""Fine-tune a policy on episodes: transcripts of the package's own format become rows, the result is a policy folder.

episodes.jsonl -> finished episodes -> rows that fit the policy's limits -> `tuner.tune` -> OUTPUT/policy
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zerosearch_env.errors import DataError, require
from zerosearch_env.game.rules import make_rules
from zerosearch_env.identity import package_version
from zerosearch_env.randomness import mix, mix_array
from zerosearch_env.records.transcripts import read_transcripts, was_played
from zerosearch_env.types import JsonObject, StopReason

from ..config.agent import FORMAT_OPTIONS, RULE_OPTIONS
from ..config.sft import SftConfig
from ..policy.card import model_context, token_limits
from ..policy.files import policy_path
from ..policy.model_card import Provenance
from ..runs.output import transcript_files

if TYPE_CHECKING:
    from .tuner import Task

RESULT = "policy"
"""The folder of the tuned policy in the run directory."""
_FIELDS = ("protocol", "question", "answers", "prompt", "turns", "stop_reason")
_TEXTS = ("action_text", "observation")
_log = logging.getLogger(__name__)


def run_sft(config: SftConfig, *, command: str = "") -> dict[str, Any]:
    """Fine-tune a policy; continues where an earlier run with the same options stopped.

    Ctrl-C once ends the run after the current step and saves everything; twice ends it immediately.

    Args:
        config: the options.
        command: the command line, stored in the manifest.

    Returns:
        Final figures: episodes, steps, loss, held-out loss, seconds, and why it stopped.

    Raises:
        ConfigError: an option is invalid, a transcript is of another protocol, or the output holds another run.
        DataError: a file is missing, damaged or not made of transcripts, or there is no episode to train on.
        CheckpointError: the policy or a checkpoint cannot be loaded or written.
        TrainingError: the loss is not finite.
        MissingExtraError: torch, transformers or (for LoRA) peft is not installed.
    """
    require("torch")
    require("transformers")
    from zerosearch_env.llm.local.devices import default_device

    from ..processes.workers import default_workers
    from .tuner import Run, tune

    files, policy = input_files(config.input), policy_path(config.policy)
    device = default_device() if config.device == "auto" else config.device
    return tune(
        Run("sft", RESULT, load_task),
        config,
        files=files,
        model=policy,
        default_workers=default_workers(policy, device),
        command=command,
    )


def load_task(config: SftConfig, device: str) -> Task:
    """Load the policy and its episodes, and encode the episodes.

    Raises:
        ConfigError: an option does not fit the policy, or a transcript is of another protocol.
        DataError: there is no episode to train on.
        CheckpointError: the policy cannot be loaded.
    """
    from dataclasses import replace

    from ..policy.policy import load_policy, policy_to_train, quiet_transformers, save_policy
    from ..processes.workers import launch_rank
    from .transcripts import transcript_rows
    from .tuner import Task

    records, unfinished = finished_episodes(read_files(input_files(config.input)))
    if not records:
        raise DataError(f"no finished episode in {_names(config)}: {unfinished} ended with an error or not at all")
    policy = load_policy(policy_path(config.policy), dtype=config.loading_dtype, device=device)
    given = make_rules(**config.given(RULE_OPTIONS))
    entries = {"turn_tokens": config.turn_tokens, "context_tokens": config.context_tokens}
    policy, rules, notes = policy_to_train(policy, config.policy, given, entries | config.given(FORMAT_OPTIONS))
    if launch_rank() == 0:
        for note in notes:
            _log.warning("%s", note)
    card = policy.card
    limits = token_limits(card, rules.protocol, model_context(policy.model.config))
    with quiet_transformers():  # hides the warning about too long inputs, which are counted here
        rows = transcript_rows(records, policy.tokenizer, rules, card.format, turn_tokens=limits.turn_tokens)
    fitting = [
        number
        for number, row in enumerate(rows)
        if len(row.ids) <= limits.context_tokens and 0 < row.longest_turn <= limits.turn_tokens
    ]
    too_long = len(rows) - len(fitting)
    if not fitting:
        longest = max(row.longest_turn for row in rows)
        raise DataError(
            f"no episode of {_names(config)} fits: the shortest has {min(len(row.ids) for row in rows)} tokens where "
            f"{limits.context_tokens} fit (--context-tokens), the longest turn {longest} where {limits.turn_tokens} "
            "fit (--turn-tokens)"
        )
    apart = held_out_questions([records[number] for number in fitting], config.held_out, config.seed)
    train = [rows[number] for number in fitting if _question_key(records[number]) not in apart]
    held_out = [rows[number] for number in fitting if _question_key(records[number]) in apart]
    counts = {
        "train_episodes": len(train),
        "held_out_episodes": len(held_out),
        "too_long": too_long,
        "unfinished": unfinished,
        "episode_tokens": round(sum(len(row.ids) for row in train) / len(train)),
        "trained_tokens": round(sum(row.targets for row in train) / len(train)),
    }

    def save(model: Any) -> None:
        tuned = replace(policy, model=model.float())
        save_policy(tuned, config.output / RESULT, provenance=sft_provenance(config, counts))

    return Task(policy.model, train, {"": held_out}, counts, save)


def sft_provenance(config: SftConfig, counts: Mapping[str, int]) -> Provenance:
    """What the model card of the policy says about the run, with the counts of its episodes."""
    facts = {
        "Method": "supervised fine-tuning on the turns of episodes",
        "Started from": config.policy,
        "Episodes": f"{counts['train_episodes']} of {_names(config)}",
        "Passes": f"{config.epochs:g}",
        "Episodes per step": config.batch_size,
        "Learning rate": f"{config.peak:g}",
        "LoRA rank": config.lora.rank or "none, all weights",
        "Seed": config.seed,
        "Version of zerosearch-env": package_version(),
    }
    return Provenance(config.policy, facts)


def input_files(paths: Sequence[Path]) -> list[Path]:
    """The files of transcripts that the paths name (`transcript_files`).

    Raises:
        DataError: a path does not exist, or has no transcripts.
    """
    return list(chain.from_iterable(map(transcript_files, paths)))


def read_files(files: Iterable[Path]) -> list[JsonObject]:
    """The transcripts of all files.

    Raises:
        DataError: a file holds something else.
    """
    return list(chain.from_iterable(map(_read, files)))


def _read(path: Path) -> list[JsonObject]:
    records: list[JsonObject] = list(read_transcripts(path))
    for number, record in enumerate(records, 1):
        if (problem := _problem(record)) is not None:
            raise DataError(
                f"{path}, record {number}: {problem}; expected transcripts as written by `zerosearch demos`, `eval` "
                "or `train`"
            )
    if not records:
        raise DataError(f"{path} holds no transcript")
    return records


def _problem(record: JsonObject) -> str | None:
    """What is wrong with a record; None if it is a transcript."""
    if missing := [name for name in _FIELDS if name not in record]:
        return f"{', '.join(missing)} missing"
    if not (isinstance(record["question"], dict) and isinstance(record["question"].get("text"), str)):
        return f"question must have a text, got {record['question']!r}"
    if record["stop_reason"] not in (None, *StopReason):
        return f"unknown stop_reason {record['stop_reason']!r}"
    turns = record["turns"]
    if not isinstance(turns, list) or any(
        not isinstance(turn, dict) or not all(isinstance(turn.get(name), str) for name in _TEXTS) for turn in turns
    ):
        return f"every turn must have {' and '.join(_TEXTS)}"
    return None


def finished_episodes(records: Iterable[JsonObject]) -> tuple[list[JsonObject], int]:
    """The episodes that were played to their end, and the number of the others (which an error ended, for example)."""
    finished, others = [], 0
    for record in records:
        if was_played(record) and record["turns"]:
            finished.append(record)
        else:
            others += 1
    return finished, others


def held_out_questions(records: Sequence[JsonObject], share: float, seed: int) -> frozenset[tuple[str, str]]:
    """Questions whose episodes are held out, so that no question is in both parts.

    Args:
        records: the transcripts.
        share: share of the questions.
        seed: chooses them.
    """
    keys = sorted({_question_key(record) for record in records})
    count = min(round(share * len(keys)), len(keys) - 1)
    order = mix_array(mix(seed, len(keys)), np.arange(len(keys), dtype=np.uint64)).argsort(kind="stable")
    return frozenset(keys[int(number)] for number in order[:count])


def _question_key(record: JsonObject) -> tuple[str, str]:
    return str(record["question"]["id"]), str(record["question"]["text"])


def _names(config: SftConfig) -> str:
    return ", ".join(map(str, config.input))
