from __future__ import annotations

import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from zerosearch_env.engines import make_engine
from zerosearch_env.errors import ConfigError, EngineError, MissingExtraError
from zerosearch_env.llm import Prompt, TransformersBackend, VLLMBackend
from zerosearch_env.llm.local import devices
from zerosearch_env.types import SearchRequest

torch = pytest.importorskip("torch")

TEMPLATE = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of a few thousand weights with a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    path = tmp_path_factory.mktemp("qwen3")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*alphabet, "<end>"])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), eos_token_id=256, **sizes, **heads))
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def backend(folder: Path) -> TransformersBackend:
    return TransformersBackend(str(folder), device="cpu", max_batch=4)


def prompts(count: int = 9, **changes: Any) -> list[Prompt]:
    base = Prompt("", 0, max_tokens=24)
    return [replace(base, text="word " * (3 * i % 7 + 1), seed=i, **changes) for i in range(count)]


@pytest.mark.slow
def test_a_completion_depends_on_its_own_prompt_alone(backend: TransformersBackend) -> None:
    asked = prompts()
    together = backend.complete(asked)
    assert [done.text for done in together] == [backend.complete([prompt])[0].text for prompt in asked]
    assert backend.complete(asked[::-1])[::-1] == together
    assert len({done.text for done in together}) == len(asked)
    again = [replace(prompt, seed=prompt.seed + 100) for prompt in asked]
    assert all(a.text != b.text for a, b in zip(together, backend.complete(again), strict=True))


def test_greedy_completions_are_those_of_generate(backend: TransformersBackend, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    asked = [replace(prompt, prefill="Doc 1:" * (i % 2)) for i, prompt in enumerate(prompts(5, temperature=0.0))]
    for prompt, done in zip(asked, backend.complete(asked), strict=True):
        ids = tokenizer(f"[{prompt.text}]{prompt.prefill}", return_tensors="pt").input_ids
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)
        assert done.text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert done.truncated


def test_samples_follow_the_model(folder: Path) -> None:
    """The first token of many seeds against the model's own probabilities, inside and outside of a nucleus."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from zerosearch_env.llm.chat import prompt_ids
    from zerosearch_env.llm.local.backend import _choose, _Generation

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([prompt_ids(tokenizer, "word")])
    with torch.inference_mode():
        logits = model(ids).logits[0, -1]
    for top_p in (1.0, 0.5):
        rows = [_Generation(Prompt("", seed, 1, temperature=0.5, top_p=top_p)) for seed in range(4000)]
        drawn = torch.bincount(torch.tensor(_choose(logits.expand(4000, -1), rows)), minlength=len(logits)) / 4000
        wanted = (logits / 0.5).softmax(-1)
        if top_p < 1:
            ordered, order = wanted.sort(descending=True)
            outside = order[(ordered.cumsum(-1) - ordered) >= top_p]
            wanted[outside] = 0
            wanted /= wanted.sum()
            assert drawn[outside].sum() == 0
        assert (drawn - wanted).abs().max() < 0.03


def test_end_tokens_stop_texts_and_limits(backend: TransformersBackend) -> None:
    (long,) = backend.complete(prompts(1, stop=("\n### ",)))
    assert long.truncated
    first = long.text[len(long.text) // 2]
    (stopped,) = backend.complete(prompts(1, stop=(first,)))
    assert (stopped.text, stopped.truncated) == (long.text[: long.text.index(first)], False)
    assert 0 < (stopped.completion_tokens or 0) <= (long.completion_tokens or 0) == 24
    (fits, too_long) = backend.complete([Prompt("a", 1, 8), Prompt("a" * 2000, 1, 50)])
    assert fits.failure is None
    assert "2002 tokens" in (too_long.failure or "")
    assert "context of 2048" in (too_long.failure or "")


def test_rows_that_end_leave_the_batch(backend: TransformersBackend) -> None:
    asked = [replace(prompt, max_tokens=2 + 3 * i) for i, prompt in enumerate(prompts(8))]
    alone = [backend.complete([prompt])[0] for prompt in asked]
    assert backend.complete(asked) == alone


def test_copies_errors_and_closing(folder: Path, tmp_path: Path) -> None:
    backend = TransformersBackend(str(folder), device="cpu")
    text = backend.complete(prompts(1))[0].text
    copy = pickle.loads(pickle.dumps(backend))
    assert copy._loaded is None
    assert copy.complete(prompts(1))[0].text == text
    backend.close()
    backend.close()
    with pytest.raises(EngineError, match="closed"):
        backend.complete(prompts(1))
    with pytest.raises(ConfigError, match="could not be loaded"):
        TransformersBackend(str(tmp_path / "missing")).complete(prompts(1))
    with pytest.raises(ConfigError, match="dtype"):
        TransformersBackend(str(folder), dtype="nosuch").complete(prompts(1))
    with pytest.raises(ConfigError, match="max_batch"):
        TransformersBackend("m", max_batch=0)


@pytest.mark.parametrize(("flags", "own"), [({"avx2"}, " (float32)"), ({"avx512_bf16"}, "")])
def test_auto_widens_where_16_bits_are_slow(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str], own: str
) -> None:
    from transformers import AutoModelForCausalLM

    narrow = shutil.copytree(folder, tmp_path / "narrow")
    AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").save_pretrained(narrow)
    monkeypatch.setattr(devices, "_cpu_flags", lambda: flags)
    monkeypatch.setattr(devices, "_SMALL", 1000)
    devices.inference_dtype.cache_clear()
    backends = {kind: TransformersBackend(str(narrow), device="cpu", dtype=kind) for kind in ("auto", "bfloat16")}
    assert backends["auto"].identity == f"{backends['bfloat16'].identity.removesuffix(' (bfloat16)')}{own}"
    read = backends["auto"]._load().decoder
    assert read._dtype == (torch.float32 if own else torch.bfloat16)
    devices.inference_dtype.cache_clear()


def test_an_untrained_model_gives_typed_failures_and_the_same_ones_every_time(folder: Path) -> None:
    spec = {"kind": "simulated", "argument": f"hf:{folder}", "max_tokens": 16, "resamples": 1, "device": "cpu"}
    engine = make_engine(spec)
    asked = [SearchRequest("q", "Who?", ("x",), noisy=noisy, top_k=2, seed=3) for noisy in (False, True)]
    results = engine.search(asked)
    assert all("no usable documents in 2 completions" in (result.failure or "") for result in results)
    assert [engine.search([request])[0].failure for request in asked] == [result.failure for result in results]
    engine.close()


class FakeLLM:
    """As much of `vllm.LLM` as the backend uses."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, model: str, **options: Any) -> None:
        if model == "missing":
            raise OSError("no such folder")
        FakeLLM.made.append(options)
        self.shut = 0
        core = SimpleNamespace(shutdown=self._shutdown)
        self.model_config = SimpleNamespace(max_model_len=64)
        self.llm_engine = SimpleNamespace(engine_core=core)

    def _shutdown(self) -> None:
        self.shut += 1

    def get_tokenizer(self) -> Any:
        class Tokenizer:
            chat_template = "there is one"

            def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
                assert options == {"add_special_tokens": False}
                return {"input_ids": [[ord(c) for c in text] for text in texts]}

            def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
                assert options == {"add_generation_prompt": True, "tokenize": False, "enable_thinking": False}
                return "|".join(message["content"] for message in messages)

        return Tokenizer()

    def generate(self, asked: list[dict[str, list[int]]], params: list[Any], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        outputs = []
        for one, how in zip(asked, params, strict=True):
            text = "".join(map(chr, one["prompt_token_ids"]))
            if text == "die":
                raise RuntimeError("engine core died")
            reason = {"abort": "abort", "long": "length"}.get(text, "stop")
            written = SimpleNamespace(text=f"{text}/{how.seed}", finish_reason=reason, token_ids=[1, 2, 3])
            outputs.append(SimpleNamespace(outputs=[written]))
        return outputs


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM = FakeLLM  # type: ignore[attr-defined]
    module.SamplingParams = lambda **values: SimpleNamespace(**values)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    FakeLLM.made.clear()


@pytest.mark.usefixtures("vllm")
def test_vllm_gets_ids_seeds_and_prefix_caching() -> None:
    backend = VLLMBackend("m", engine_options={"max_model_len": 64})
    asked = [Prompt(text, seed, 8) for seed, text in enumerate(["short", "long", "abort", "x" * 60])]
    short, long, aborted, too_long = backend.complete(asked)
    assert short.text.startswith("short/")
    assert (short.truncated, long.truncated) == (False, True)
    assert (short.completion_tokens, aborted.completion_tokens) == (3, None)
    assert 0 <= int(short.text.partition("/")[2]) < 2**63
    assert short.text.partition("/")[2] != long.text.partition("/")[2]
    assert aborted.failure == "vLLM aborted the request"
    assert "context of 64" in (too_long.failure or "")
    backend.complete(asked[:1])
    assert FakeLLM.made == [{"enable_prefix_caching": True, "generation_config": "vllm", "max_model_len": 64}]
    copy = pickle.loads(pickle.dumps(backend))
    llm = backend._loaded._llm
    backend.close()
    backend.close()
    assert llm.shut == 1
    assert copy.complete(asked[:1]) == [short]
    with pytest.raises(EngineError, match="closed"):
        backend.complete(asked)


@pytest.mark.usefixtures("vllm")
def test_vllm_continues_the_beginning_of_a_reply() -> None:
    (done,) = VLLMBackend("m").complete([Prompt("short", 0, 8, system="be", prefill="Doc 1:")])
    assert done.text.startswith("be|shortDoc 1:/")


@pytest.mark.usefixtures("vllm")
def test_vllm_s_failures_are_typed() -> None:
    with pytest.raises(EngineError, match="engine core died"):
        VLLMBackend("m").complete([Prompt("die", 1, 1)])
    with pytest.raises(ConfigError, match="no such folder"):
        VLLMBackend("missing").complete([Prompt("x", 1, 1)])
    assert VLLMBackend("m").complete([]) == []


def test_vllm_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"zerosearch-env\[vllm\]"):
        VLLMBackend("m").complete([Prompt("x", 1, 1)])
