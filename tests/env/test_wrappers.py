from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from env_fakes import EchoEngine, make_dataset
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from zerosearch_env.envs.wrappers import (
    TranscriptObservation,
    TranscriptRecorder,
    VectorTranscriptObservation,
    VectorTranscriptRecorder,
)
from zerosearch_env.errors import ConfigError
from zerosearch_env.records.transcripts import read_transcripts

TURNS = ("<search>a</search>", "no tag", "<answer>b</answer>")


def make(**arguments: Any) -> gym.Env[str, str]:
    return gym.make("ZeroSearch-v0", dataset=make_dataset(), search_engine=EchoEngine(), **arguments)


def make_vec(count: int = 2, **arguments: Any) -> Any:
    return gym.make_vec(
        "ZeroSearch-v0", num_envs=count, dataset=make_dataset(), search_engine=EchoEngine(), **arguments
    )


def test_the_transcript_is_the_sum_of_what_was_seen_and_said() -> None:
    env, plain = TranscriptObservation(make()), make()
    text, info = env.reset(seed=1)
    assert (text, info) == plain.reset(seed=1)
    for action in TURNS:
        observation, *rest = env.step(action)
        delta, *want = plain.step(action)
        text += action + delta
        assert observation == text
        assert rest == want
    assert text.endswith(TURNS[-1])


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_vector_transcripts_are_those_of_single_environments(mode: AutoresetMode) -> None:
    envs, env = VectorTranscriptObservation(make_vec(autoreset_mode=mode)), TranscriptObservation(make())
    assert envs.reset(seed=4)[0][0] == env.reset(seed=4)[0]
    for action in TURNS:
        observations, *_, infos = envs.step([action, "x"])
        want = env.step(action)[0]
        if mode is AutoresetMode.SAME_STEP and action == TURNS[-1]:
            assert infos["final_obs"].tolist() == [want, None]
            want = env.reset()[0]
        assert observations[0] == want


def test_a_recorder_writes_every_finished_episode(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "episodes.jsonl"
    env = TranscriptRecorder(make(noise_level=0.5), path, extra={"agent": "tester"})
    for episode in range(3):
        env.reset(seed=episode)
        for action in TURNS[: 3 if episode != 1 else 1]:
            env.step(action)
    env.close()
    records = list(read_transcripts(path))
    assert [record["seed"] for record in records] == [_seed(0), _seed(2)]
    assert [turn["action"] for turn in records[0]["turns"]] == ["search", "invalid", "answer"]
    assert records[0]["scores"]["prediction"] == "b"
    assert records[0]["extra"] == {"agent": "tester"}


def _seed(seed: int) -> int:
    env = make()
    env.reset(seed=seed)
    return env.unwrapped.episode.seed  # type: ignore[attr-defined]


def test_a_recorder_survives_in_the_spec_and_in_a_pickle(tmp_path: Path) -> None:
    env = TranscriptRecorder(
        gym.make(
            "ZeroSearch-v0",
            dataset=[{"question": "Who?", "answers": ["A"]}],
            search_engine="corpus:" + str(_corpus(tmp_path)),
        ),
        tmp_path / "t.jsonl",
    )
    assert env.spec is not None
    for twin in (env.spec.make(), pickle.loads(pickle.dumps(env))):
        twin.reset(seed=0)
        twin.step("<answer>A</answer>")
    assert len(list(read_transcripts(tmp_path / "t.jsonl"))) == 2


def _corpus(folder: Path) -> Path:
    path = folder / "corpus.jsonl"
    rows = [f'{{"id": "{i}", "contents": "\\"Page {i}\\"\\nWords about thing {i} and lake {i}."}}' for i in range(40)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_recorders_of_many_environments_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    envs = SyncVectorEnv([lambda: TranscriptRecorder(make(), path)] * 3)
    envs.reset(seed=0)
    envs.step(["<answer>x</answer>"] * 3)
    envs.close()
    assert len(list(read_transcripts(path))) == 3


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_vector_recorder_records_in_every_mode(tmp_path: Path, mode: AutoresetMode) -> None:
    path = tmp_path / "t.jsonl"
    envs = VectorTranscriptRecorder(make_vec(autoreset_mode=mode), path, extra={"step": 7})
    observations, infos = envs.reset(seed=0)
    envs.step(["<answer>x</answer>", "<search>a</search>"])
    if mode is AutoresetMode.DISABLED:
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.step(["<search>a</search>", "<answer>y</answer>"])
    envs.close()
    records = list(read_transcripts(path))
    assert [record["extra"] for record in records] == [{"env": 0, "step": 7}, {"env": 1, "step": 7}]
    assert [record["question"]["text"] for record in records] == infos["question"].tolist()
    assert [record["prompt"] for record in records] == list(observations)
    assert [len(record["turns"]) for record in records] == [1, 2]


def test_wrong_environments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a ZeroSearchEnv inside, got CartPoleEnv"):
        TranscriptObservation(gym.make("CartPole-v1"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="single environments"):
        VectorTranscriptRecorder(SyncVectorEnv([make]), tmp_path / "t.jsonl")


def test_what_follows_the_deciding_element_is_cut_from_the_transcript_and_kept_in_the_record(tmp_path: Path) -> None:
    path, invented = tmp_path / "t.jsonl", "<information>Doc 1: invented</information><answer>no</answer>"
    env = TranscriptObservation(TranscriptRecorder(make(), path))  # type: ignore[arg-type]
    prompt, _ = env.reset(seed=1)
    seen = [env.step(turn + invented)[0] for turn in ("<search>a</search>", "<search> </search>", "<answer>b</answer>")]
    assert not any("invented" in text for text in seen)
    assert seen[0].startswith(prompt + "<search>a</search>\n")
    assert seen[-1].endswith("<answer>b</answer>")
    env.close()
    (record,) = read_transcripts(path)
    assert [turn["action"] for turn in record["turns"]] == ["search", "invalid", "answer"]
    assert all(turn["action_text"].endswith(invented) for turn in record["turns"])
