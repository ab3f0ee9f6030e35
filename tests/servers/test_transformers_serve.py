"""The simulated engine over `transformers serve`, which is killed in the middle of a run: `make test-servers`."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from real_servers import Server, serving

from zerosearch_env.engines import make_engine
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.types import Dataset

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]
pytest.importorskip("fastapi", reason="transformers serve needs transformers[serving]: make test-servers")

ENVIRONMENTS = 64
SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture
def server(model: Path, tmp_path: Path) -> AbstractContextManager[Server]:
    return serving(
        [
            *(sys.executable, "-c", SERVE, "serve", str(model), "--host", "127.0.0.1", "--port", "{port}"),
            *("--device", "cpu", "--dtype", "float32"),
        ],
        tmp_path / "server.log",
    )


def spec(url: str, **http: Any) -> dict[str, Any]:
    return {
        **{"kind": "simulated", "argument": f"openai:{url}", "prompt": "tiny", "max_tokens": 160, "resamples": 1},
        **{"miss_resamples": 0, "http": {"concurrency": 16, **http}},
    }


def play(engine: SimulatedEngine, questions: Dataset, *, meanwhile: Any = None) -> list[dict[str, Any]]:
    """Every environment searches for its question and then answers; what each of them saw."""
    envs = gymnasium.make_vec(
        "ZeroSearch-v0",
        num_envs=ENVIRONMENTS,
        dataset=questions,
        search_engine=engine,
        noise_level=0.5,
        top_k=2,
        autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
    )
    _, infos = envs.reset(seed=0)
    asked = list(infos["question"])
    if meanwhile is not None:
        meanwhile.start()
    _, _, terminated, truncated, infos = envs.step(tuple(f"<search>{text}</search>" for text in asked))
    seen = [
        {
            "question": asked[i],
            "documents": [document.text for document in infos["documents"][i] or ()],
            "noisy": infos["noisy"][i],
            "truncated": bool(truncated[i]),
            "error": infos["error"][i] if "error" in infos else None,
        }
        for i in range(ENVIRONMENTS)
    ]
    assert not terminated.any()
    envs.close()
    return seen


def test_a_server_that_is_killed_and_started_again_costs_no_episode(
    server: AbstractContextManager[Server], questions: Dataset
) -> None:
    with server as running:
        engine = make_engine(spec(running.url, total_s=300, attempts=200, backoff_cap_s=1.0))
        assert isinstance(engine, SimulatedEngine)
        undisturbed = play(engine, questions)
        failed_before = engine.stats().failed_searches
        restarted: list[float] = []

        def crash() -> None:
            time.sleep(1.0)
            running.stop()
            time.sleep(1.0)
            running.start()
            restarted.append(time.monotonic())

        again = make_engine(spec(running.url, total_s=300, attempts=200, backoff_cap_s=1.0))
        assert isinstance(again, SimulatedEngine)
        crashing = threading.Thread(target=crash)
        disturbed = play(again, questions, meanwhile=crashing)
        assert restarted, "the run was over before the crash: it shows nothing"
        crashing.join()
        # The server decodes greedily: what was written after the crash is what would have been written without it.
        assert disturbed == undisturbed
        assert again.stats().failed_searches == failed_before
        finished = [row for row in undisturbed if not row["truncated"]]
        assert len(finished) >= 0.9 * ENVIRONMENTS
        assert all(len(row["documents"]) == 2 for row in finished)
        # Those that ended did so for what the model wrote, not for the server.
        assert all("no usable documents" in row["error"] for row in undisturbed if row["truncated"])


FOR_GOOD = """
import json, sys, time
import gymnasium, zerosearch_env
spec = json.loads(sys.argv[1])
envs = gymnasium.make_vec("ZeroSearch-v0", num_envs=64, search_engine=spec, noise_level=0.5, top_k=2)
_, infos = envs.reset(seed=0)
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
_, rewards, terminated, truncated, infos = envs.step(tuple(f"<search>{text}</search>" for text in infos["question"]))
print(json.dumps({
    "seconds": time.monotonic() - began,
    "truncated": int(truncated.sum()), "terminated": int(terminated.sum()), "reward": float(rewards.sum()),
    "errors": [str(error) for error in infos["error"]],
}), flush=True)
"""


def test_a_server_that_is_killed_for_good_ends_every_episode_in_time(server: AbstractContextManager[Server]) -> None:
    with server as running:
        command = [
            sys.executable,
            "-W",
            "error",
            "-c",
            FOR_GOOD,
            json.dumps(spec(running.url, total_s=6, attempts=100)),
        ]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("go\n")
            process.stdin.flush()
            time.sleep(1.0)
            running.stop()
            report = json.loads(process.stdout.readline())
            assert process.wait(30) == 0
    dead = [error for error in report["errors"] if "failed after" in error]
    # 16 at a time, each within total_s; those that wait for their turn start their own time then.
    assert report["seconds"] < 6 * (64 / 16) + 10
    assert len(dead) >= 32
    assert report["truncated"] == sum(error != "None" for error in report["errors"])
    assert (report["terminated"], report["reward"]) == (0, 0.0)
