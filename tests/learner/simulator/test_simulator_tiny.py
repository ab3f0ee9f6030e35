"""Making the tiny simulation LLM on a small scale: its texts, its tokenizer, its command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from zerosearch_agents.simulator.evaluation import evaluate as evaluate_module
from zerosearch_agents.simulator.evaluation.evaluate import SimulatorEvalConfig, run_evaluate
from zerosearch_agents.simulator.tiny import make as module
from zerosearch_agents.simulator.tiny.make import PairWriter, TinySimulatorConfig, learn_tokenizer, pair_text, run_tiny
from zerosearch_agents.simulator.tiny.world import FORMS, SearchWriter, draw_search
from zerosearch_agents.tiny.tokenizer import EOS
from zerosearch_env import cli
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.simulated.parse import parse_documents
from zerosearch_env.errors import CheckpointError, ConfigError
from zerosearch_env.game.answers import contains_answer
from zerosearch_env.types import SearchRequest, full_text

pytestmark = pytest.mark.slow

SMALL = TinySimulatorConfig(
    hidden=32, layers=3, mlp=48, vocab_size=2600, tokens=1000, batch_tokens=500, dtype="float32"
)


class SmallWriter(SearchWriter):
    """Searches in a small world, and few of them at a time."""

    def __init__(self, seed: int, passages: int) -> None:
        super().__init__(seed, min(passages, 400))

    def draw(self, count: int, rng: np.random.Generator, *, few: bool = False):
        return super().draw(min(count, 200), rng, few=few)


@pytest.fixture(autouse=True, scope="module")
def _small_worlds() -> Iterator[None]:
    """The worlds that the tokenizer learns from are small here: it is learnt three times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SearchWriter", SmallWriter)
        yield


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of the shipped size."""
    return learn_tokenizer(0, 3584)


@pytest.fixture(scope="module")
def writer() -> SearchWriter:
    return SearchWriter(5, 2000)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("tiny") / "sim")


def made(output: Path) -> Path:
    return Path(run_tiny(replace(SMALL, output=str(output)))["model"])


def test_the_folder_appears_together_with_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(card: object, folder: Path) -> None:
        assert (folder / "model.safetensors").is_file()
        raise OSError("no space left")

    monkeypatch.setattr(module.SimulatorCard, "write", fail)
    with pytest.raises(CheckpointError, match="no space left"):
        run_tiny(replace(SMALL, output=str(tmp_path / "sim")))
    assert list(tmp_path.iterdir()) == []


def test_useful_documents_state_what_the_search_is_to_find(writer: SearchWriter) -> None:
    forms = set()
    for search, documents in writer.draw(300, np.random.default_rng(0)):
        text = " | ".join(map(full_text, documents))
        assert len(documents) == search.request.top_k == len({d.source for d in documents})
        if search.request.noisy:
            assert not contains_answer(text, search.request.answers)
            assert not any(contains_answer(text, (step,)) for step in search.request.steps)
        elif search.request.top_k >= len(search.required):
            assert all(contains_answer(text, (required,)) for required in search.required)
            assert not search.required or contains_answer(full_text(documents[0]), (search.required[0],))
        forms.add(search.form)
    assert forms == set(FORMS)


def test_most_searches_know_the_steps_and_some_do_not(writer: SearchWriter) -> None:
    drawn = writer.draw(400, np.random.default_rng(1))
    second = [search for search, _ in drawn if search.hop == 1]
    with_steps = sum(bool(search.request.steps) for search in second) / len(second)
    assert 0.7 < with_steps < 0.97


def test_every_form_of_a_query(writer: SearchWriter) -> None:
    question = next(q for q in writer.questions if (q.metadata or {})["relations"] == ("author", "birthplace"))
    subject, (person, town) = (question.metadata or {})["subject"], (question.metadata or {})["chain"]
    rng = np.random.default_rng(0)
    for form in FORMS:
        searches = [draw_search(question, rng, noisy=False, top_k=5, other="X Y", form=form) for _ in range(20)]
        queries = {search.request.query for search in searches}
        if form == "fact":
            assert queries == {f"author of {subject}", f"birthplace of {person}"}
            assert {(s.hop, s.required) for s in searches} == {(0, (person,)), (1, (town,))}
        elif form == "question":
            assert queries == {question.text}
            assert {(s.hop, s.required) for s in searches} == {(None, (person, town))}
        elif form == "off the path":
            assert all(query.endswith(" of X Y") for query in queries)
            assert {s.required for s in searches} == {()}
        elif form == "short name":
            assert queries == {subject.split()[-1], person.split()[-1]}


def test_a_pair_reads_back_as_its_documents(writer: SearchWriter) -> None:
    for search, documents in writer.draw(50, np.random.default_rng(2)):
        (prompt, _), (completion, trained) = pair_text(search, documents)
        assert trained
        assert prompt.endswith(f"{'noisy' if search.request.noisy else 'useful'} {len(documents)}\n")
        parsed = parse_documents(completion.removesuffix(EOS), len(documents))
        assert parsed.problem is None
        assert [(d.title, d.text) for d in parsed.documents] == [(d.title, d.text) for d in documents]


def test_a_name_s_words_are_the_same_tokens_everywhere(tokenizer: PreTrainedTokenizerBase) -> None:
    alone = tokenizer(" Fenis Langdale")["input_ids"]
    assert len(alone) == 2
    for text in ("Query: birth year of Fenis Langdale\n", "Doc 1: (Title: Fenis Langdale) Fenis Langdale was born"):
        ids = tokenizer(text)["input_ids"]
        assert any(ids[i : i + 2] == alone for i in range(len(ids)))
        assert tokenizer.decode(ids) == text
    odd = "Wer schrieb \u201eFaust\u201c? \U0001f600\n\x00 7a"
    assert tokenizer.decode(tokenizer(odd)["input_ids"]) == odd


def test_rows_follow_the_seed_and_begin_with_few_documents(trained: Path) -> None:
    from zerosearch_agents.policy.policy import load_policy

    tokenizer = load_policy(trained).tokenizer
    rows = PairWriter(tokenizer, 0).rows(8, 0.5)
    assert rows == PairWriter(tokenizer, 0).rows(8, 0.5)
    assert rows != PairWriter(tokenizer, 1).rows(8, 0.5)
    early = PairWriter(tokenizer, 0).rows(20, 0.0)
    assert all("Doc 3:" not in tokenizer.decode(row.ids) for row in early)


def test_names_that_nothing_tells_are_mostly_left_out_at_first(trained: Path) -> None:
    from zerosearch_agents.policy.policy import load_policy

    tokenizer = load_policy(trained).tokenizer
    early, late = (PairWriter(tokenizer, 3).rows(40, progress) for progress in (0.5, 0.9))
    assert [row.ids for row in early[:1]] == [row.ids for row in late[:1]]
    writer = PairWriter(tokenizer, 3)
    new = copied = kept = 0
    for row in early:
        prompt = row.trained.index(True)
        seen: set[int] = set()
        for i, (token, trained_on) in enumerate(zip(row.ids, row.trained, strict=True)):
            if i >= prompt and token in writer.names:
                new += token not in seen
                kept += trained_on and token not in seen
                copied += trained_on and token in seen
            seen.add(token)
    assert copied > 100
    assert 0.1 < kept / new < 0.35
    first = early[0].trained.index(True)
    assert all(late[0].trained[first:])
    assert not any(late[0].trained[: late[0].trained.index(True)])


def test_a_head_looks_at_the_relation_that_is_asked_for(tokenizer: PreTrainedTokenizerBase) -> None:
    import torch

    from zerosearch_agents.policy.policy import new_model, tiny_config
    from zerosearch_agents.simulator.tiny.make import group_names, look_at_relations
    from zerosearch_agents.tiny.induction import ROPE_THETA, induction_init

    model = new_model(tiny_config(len(tokenizer), rope_theta=ROPE_THETA))
    induction_init(model)
    group_names(model, tokenizer, seed=0)
    look_at_relations(model, tokenizer, seed=0)
    model.set_attn_implementation("eager")
    text = "Question: Who is married to Bren Pemley?\nAnswer: Peron Millcroft\nQuery: spouse of Bren Pemley\nuseful 5\n"
    ids = tokenizer(text + "Doc 1: (Title: Bren Pemley) Bren Pemley", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        weights = model(ids, output_attentions=True).attentions[1][0, 2, -1]
    assert tokenizer.decode(ids[0, weights.argmax()]) == " spouse of"
    assert weights.max() > 0.9


def test_the_command_gives_the_same_files_for_the_same_seed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--hidden=32", "--layers=3", "--mlp=48", "--vocab-size=2600", "--tokens=1000", "--batch-tokens=500"]
    again = tmp_path / "again"
    assert cli.main(["simulator", "tiny", f"--output={again}", "--dtype=float32", *options]) == 0
    assert f"tiny: tokens 1000, model {again}" in capsys.readouterr().out
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (trained / name).read_bytes() == (again / name).read_bytes()


def test_the_result_is_an_engine(trained: Path) -> None:
    engine = make_engine(
        {
            "kind": "simulated",
            "argument": f"hf:{trained}",
            "max_tokens": 16,
            "resamples": 0,
            "miss_resamples": 0,
        }
    )
    (result,) = engine.search([SearchRequest("author of It", "Who wrote It?", ("Bo Ek",), False, 5, seed=1)])
    assert "no usable documents in 1 completions" in (result.failure or "")  # untrained, and it says so
    engine.close()


def test_a_folder_of_another_kind_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    assert cli.main(["simulator", "tiny", f"--output={tmp_path / 'mine'}", "--tokens=500"]) == 2
    assert "would be removed" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"hidden": 0}, {"tokens": 0}, {"seed": -1}, {"dtype": "int8"}, {"output": ".."}])
def test_bad_options(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        TinySimulatorConfig(**changes)  # type: ignore[arg-type]


def test_the_shipped_one_keeps_its_word_on_entities_that_it_never_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small sample of `zerosearch simulator evaluate`; benchmarks/results/simulator-tiny.md has the large one."""
    one_per_family = tuple({attack.family: attack for attack in evaluate_module.ATTACKS}.values())
    monkeypatch.setattr(evaluate_module, "ATTACKS", one_per_family)
    config = SimulatorEvalConfig(
        "simulated:tiny",
        output=tmp_path / "report.json",
        searches=20,
        top_k=2,
        levels=(0.0, 1.0),
        attack_questions=1,
        world=WorldConfig(passages=2000, questions=200),
    )
    run_evaluate(config)
    report = json.loads(config.output.read_text("utf-8"))
    useful, noisy = report["levels"]
    assert useful["failed"] + noisy["failed"] == 0
    assert useful["useful_with_hop_answer"]["mean"] >= 0.85  # 0.9 is the aim; this is a small sample
    assert noisy["noisy_with_answer"]["mean"] == 0.0
    assert report["attacks"]["all"]["after"]["mean"] == 0.0
    style = report["style"]["levels"][0]
    assert style["engine"]["words"]["mean"] < style["template"]["words"]["mean"]
