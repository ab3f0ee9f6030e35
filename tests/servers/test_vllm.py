"""The simulated engine over vLLM, in this process and as a server, without a GPU: `make test-vllm`."""

from __future__ import annotations

import signal
import sys
from contextlib import closing
from pathlib import Path

import gymnasium
import pytest
from real_servers import serving

from zerosearch_env.engines import SearchEngine, make_engine
from zerosearch_env.rewards import contains_answer
from zerosearch_env.types import Dataset, SearchRequest

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(900),
    # vLLM's own imports warn, differently in every version.
    pytest.mark.filterwarnings("default"),
]
pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm")
STYLE = {"kind": "simulated", "prompt": "tiny", "max_tokens": 400}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU vLLM reserves four gigabytes and binds threads to cores unless it is told otherwise."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def requests(questions: Dataset, count: int = 12) -> list[SearchRequest]:
    chosen = [q for q in questions.questions if not q.steps][:count]
    return [SearchRequest(q.text, q.text, q.answers, i % 2 == 1, 5, seed=i) for i, q in enumerate(chosen)]


def check(engine: SearchEngine, asked: list[SearchRequest]) -> None:
    """Most searches succeed, noisy documents hold no answer, useful ones mostly do."""
    results = engine.search(asked)
    found = [(request, result) for request, result in zip(asked, results, strict=True) if result.failure is None]
    assert len(found) >= 0.8 * len(asked), [result.failure for result in results]
    holds = [any(contains_answer(d.text, request.answers) for d in result.documents) for request, result in found]
    noisy = [held for held, (request, _) in zip(holds, found, strict=True) if request.noisy]
    useful = [held for held, (request, _) in zip(holds, found, strict=True) if not request.noisy]
    assert noisy
    assert not any(noisy)
    assert sum(useful) >= 0.7 * len(useful)


def test_in_this_process(model: Path, questions: Dataset) -> None:
    options = {"max_model_len": 1024, "dtype": "float32", "enforce_eager": True, "max_num_seqs": 16}
    with closing(make_engine({**STYLE, "argument": f"vllm:{model}", "engine_options": options})) as engine:
        asked = requests(questions)
        check(engine, asked)
        first = [result.documents for result in engine.search(asked[:4])]
        assert [result.documents for result in engine.search(asked[:4])] == first, "a seed decides the documents"
        env = gymnasium.make("ZeroSearch-v0", dataset=questions, search_engine=engine, noise_level=0.5)
        _, info = env.reset(seed=0)
        observation, _, _, truncated, info = env.step(f"<search>{info['question']}</search>")
        assert truncated or "Doc 5" in observation


def test_as_a_server(model: Path, questions: Dataset, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", "{port}"),
        *("--host", "127.0.0.1", "--max-model-len", "1024", "--dtype", "float32", "--enforce-eager"),
        *("--max-num-seqs", "16", "--generation-config", "vllm"),
    ]
    with (
        serving(command, tmp_path / "server.log", end_with=signal.SIGTERM) as server,
        closing(make_engine({**STYLE, "argument": f"openai:{server.url}"})) as engine,
    ):
        check(engine, requests(questions))
