from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, PreTrainedModel, PreTrainedTokenizerFast

from zerosearch_agents.policy.policy import new_model, tiny_config
from zerosearch_agents.sampling.local import Sampler
from zerosearch_agents.sampling.protocol import TurnSample
from zerosearch_agents.sampling.stops import StopFinder, decode
from zerosearch_agents.tiny.tokenizer import build_tokenizer
from zerosearch_env.errors import ConfigError
from zerosearch_env.llm.chat import end_ids
from zerosearch_env.llm.local.draw import draw
from zerosearch_env.llm.local.fused import FusedDecoder
from zerosearch_env.randomness import uniform, uniform_rows

STOPS = ("</search>", "</answer>")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(["the author of the book is a person", "a town of the person"] * 3, 300)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Random, but fond of the tags, so that turns end in every way."""
    config = tiny_config(
        len(tokenizer), hidden=32, layers=2, heads=2, mlp=48, tied=False, eos_token_id=tokenizer.eos_token_id
    )
    model = new_model(config, seed=1)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8.0)
        likely = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["</search>", "</answer>"])]
        model.get_input_embeddings().weight[:, 0] = 0.1
        model.get_output_embeddings().weight[likely, 0] = 0.7
    return model


def make(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **options: object) -> Sampler:
    defaults = {"slots": 8, "context_tokens": 160, "stop_strings": STOPS, "turn_tokens": 14, "seed": 0}
    return Sampler(model, tokenizer, **(defaults | options))


def play(
    sampler: Sampler, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]
) -> dict[object, list[TurnSample]]:
    """Sample a turn of every prompt and one after every text; the turns of each row."""
    turns: dict[object, list[TurnSample]] = {index: [] for index in range(len(prompts))}
    for index, prompt in enumerate(prompts):
        sampler.start(index, prompt, seed=100 + index)
    while finished := sampler.run():
        for sample in finished:
            row = turns[sample.key]
            row.append(sample)
            if len(row) > len(texts) or sample.finish == "context":
                sampler.finish(sample.key)
            else:
                sampler.extend(sample.key, texts[len(row) - 1])
    return turns


def random_ids(rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast, *lengths: int) -> list[list[int]]:
    return [rng.integers(10, len(tokenizer), length).tolist() for length in lengths]


@pytest.fixture(scope="module")
def workload(tokenizer: PreTrainedTokenizerFast) -> tuple[list[list[int]], list[list[int]]]:
    rng = np.random.default_rng(4)
    return random_ids(rng, tokenizer, *rng.integers(1, 40, 8)), random_ids(rng, tokenizer, 30, 1)


@pytest.fixture(scope="module")
def together(model, tokenizer, workload) -> dict[object, list[TurnSample]]:
    """The turns of all rows, each in its own slot."""
    return play(make(model, tokenizer), *workload)


def test_memory_is_freed_before_training_and_nothing_changes(model, tokenizer, workload, together) -> None:
    prompts, texts = workload
    sampler = make(model, tokenizer)
    decoder = sampler._decoder
    assert isinstance(decoder, FusedDecoder)
    sampler.start(0, prompts[0], seed=100)
    (first,) = sampler.run()
    sampler.before_training()
    assert decoder._layers  # a row is still being played
    sampler.finish(0)
    sampler.before_training()
    assert not decoder._layers
    assert not sum(pages.numel() for pages in (*decoder._cache.keys, *decoder._cache.values))
    assert first.token_ids == together[0][0].token_ids
    for refreshed in (True, False):
        if refreshed:
            sampler.refresh()
        again = play(sampler, prompts[:2], texts)
        assert [turn.token_ids for turn in again[1]] == [turn.token_ids for turn in together[1]]
        sampler.before_training()


@pytest.mark.slow
def test_rows_are_the_same_alone_together_and_through_few_slots(model, tokenizer, workload, together) -> None:
    prompts, texts = workload
    few = play(make(model, tokenizer, slots=3), prompts, texts)
    sampler = make(model, tokenizer, slots=1)
    ends = set()
    for index in range(len(prompts)):
        sampler.start(index, prompts[index], seed=100 + index)
        for turn, text in enumerate([*texts, None]):
            (alone,) = sampler.run()
            for other in (together[index][turn], few[index][turn]):
                assert (alone.token_ids, alone.finish, alone.text) == (other.token_ids, other.finish, other.text)
                assert alone.logprobs == pytest.approx(other.logprobs, abs=1e-4)
            ends.add(alone.finish)
            if text is not None:
                sampler.extend(index, text)
        sampler.finish(index)
    assert ends == {"stop", "eos", "length"}


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_tokens_and_logprobs_are_those_of_the_model(model, tokenizer, workload, temperature: float) -> None:
    prompts, texts = workload
    turns = play(make(model, tokenizer, temperature=temperature), prompts, texts)
    for index, prompt in enumerate(prompts[:6]):
        row = list(prompt)
        for sample, text in zip(turns[index], [*texts, []], strict=True):
            begin = len(row)
            row += sample.token_ids
            with torch.no_grad():
                logits = model(torch.tensor([row])).logits[0, begin - 1 : -1].double()
            expected = (logits / (temperature or 1.0)).log_softmax(-1)
            for offset, token in enumerate(sample.token_ids):
                assert sample.logprobs[offset] == pytest.approx(expected[offset, token].item(), abs=1e-4)
                if temperature == 0:
                    assert token == expected[offset].argmax()
                else:
                    above = expected[offset].exp().cumsum(-1)
                    u = uniform(100 + index, begin + offset)
                    assert above[token] > u - 1e-5
                    assert token == 0 or above[token - 1] <= u + 1e-5
            row += text


def test_a_fallback_model_samples_the_same_alone_and_together(tokenizer, workload) -> None:
    prompts, texts = workload
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=160, bos_token_id=None, eos_token_id=None
    )
    model = new_model(config, seed=2)
    together = play(make(model, tokenizer, slots=5, turn_tokens=6), prompts[:5], texts)
    alone = play(make(model, tokenizer, slots=1, turn_tokens=6), prompts[:5], texts)
    for index, turns in together.items():
        assert [turn.token_ids for turn in turns] == [turn.token_ids for turn in alone[index]]


def test_every_token_is_kept_and_the_text_is_theirs(tokenizer, together) -> None:
    for turns in together.values():
        for sample in turns:
            assert len(sample.token_ids) == len(sample.logprobs) > 0
            body = sample.token_ids[:-1] if sample.finish == "eos" else sample.token_ids
            assert sample.text == decode(tokenizer, body)
            assert (sample.finish == "eos") == (sample.token_ids[-1] == tokenizer.eos_token_id)
            before = decode(tokenizer, body[:-1])
            assert not any(stop in before for stop in STOPS)
            assert (sample.finish == "stop") == any(stop in sample.text for stop in STOPS)
            if sample.finish == "length":
                assert len(sample.token_ids) == 14


def test_a_full_context_ends_a_row(model, tokenizer) -> None:
    sampler = make(model, tokenizer, stop_strings=(), context_tokens=20, turn_tokens=50)
    sampler._eos[:] = sampler._ends[:] = False
    sampler.start("fits", [11] * 15, seed=1)
    sampler.start("full", [11] * 20, seed=1)
    sampler.start("longer", [11] * 30, seed=1)
    samples = {}
    while finished := sampler.run():
        samples |= {sample.key: sample for sample in finished}
    assert {key: (sample.finish, len(sample.token_ids)) for key, sample in samples.items()} == {
        "fits": ("context", 5),
        "full": ("context", 0),
        "longer": ("context", 0),
    }
    assert samples["full"].text == ""
    sampler.extend("fits", [12])
    (again,) = sampler.run()
    assert (again.key, again.finish, again.token_ids) == ("fits", "context", ())


def test_turn_limits_of_single_turns(model, tokenizer) -> None:
    sampler = make(model, tokenizer, stop_strings=())
    sampler._eos[:] = sampler._ends[:] = False
    for key, limit in enumerate((1, 7, None)):
        sampler.start(key, [20, 21], seed=3, turn_tokens=limit)
    turns = sorted(sampler.run(minimum=3), key=lambda sample: sample.key)
    assert [len(turn.token_ids) for turn in turns] == [1, 7, 14]
    assert turns[1].token_ids == turns[2].token_ids[:7]
    with pytest.raises(ConfigError, match="turn_tokens"):
        sampler.extend(0, [3], turn_tokens=15)


def test_run_waits_for_as_many_as_asked(model, tokenizer, workload) -> None:
    prompts, _ = workload
    sampler = make(model, tokenizer, slots=4)
    assert sampler.run() == []
    for index, prompt in enumerate(prompts):
        sampler.start(index, prompt, seed=index)
    first = sampler.run(minimum=3)
    assert 3 <= len(first) <= 4
    for sample in first:
        sampler.finish(sample.key)
    rest = sampler.run(minimum=1000)
    # The rows of this call keep their slots, yet the queue is not starved: idle rows are put out of the cache.
    assert len(first) + len(rest) == len(prompts)


def test_a_row_put_out_of_the_cache_goes_on_as_if_it_had_stayed(model, tokenizer, workload, together) -> None:
    prompts, texts = workload
    sampler = make(model, tokenizer, slots=2)
    for index, prompt in enumerate(prompts):
        sampler.start(index, prompt, seed=100 + index)
    for turn, text in enumerate([*texts, None]):
        samples = sampler.run(minimum=len(prompts))
        assert len(samples) == len(prompts)
        for sample in samples:
            assert sample.token_ids == together[sample.key][turn].token_ids
            if text is not None:
                sampler.extend(sample.key, text)


def test_finish_frees_slots_in_any_state(model, tokenizer, workload) -> None:
    prompts, _ = workload
    sampler = make(model, tokenizer, slots=2)
    for index, prompt in enumerate(prompts[:6]):
        sampler.start(index, prompt, seed=100 + index)
    done = {sample.key: sample for sample in sampler.run()}
    for key in set(range(6)) - {5}:
        sampler.finish(key)
    (last,) = sampler.run(minimum=9) if 5 not in done else (done[5],)
    alone = play(make(model, tokenizer, slots=1), prompts[:6], [])
    assert last.token_ids == alone[5][0].token_ids
    sampler.start(0, prompts[0], seed=100)
    (again,) = sampler.run()
    assert again.token_ids == alone[0][0].token_ids


def test_refresh_drops_what_the_old_weights_cached(tokenizer, model, workload) -> None:
    prompts, texts = workload
    learner = new_model(model.config, seed=1)
    learner.load_state_dict(model.state_dict())
    sampler = make(learner, tokenizer)
    sampler.start("row", prompts[0], seed=7)
    (first,) = sampler.run()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.05)
    sampler.refresh()
    sampler.extend("row", texts[0])
    (second,) = sampler.run()
    row = [*prompts[0], *first.token_ids, *texts[0]]
    with torch.no_grad():
        logits = learner(torch.tensor([row + list(second.token_ids)])).logits[0, len(row) - 1 : -1]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(second.token_ids)[:, None])[:, 0].tolist()
    assert second.logprobs == pytest.approx(expected, abs=1e-4)


def test_refresh_in_the_middle_of_turns(tokenizer, model, workload) -> None:
    prompts, texts = workload
    plain = play(make(model, tokenizer), prompts[:6], texts)
    sampler = make(model, tokenizer)
    for index, prompt in enumerate(prompts[:6]):
        sampler.start(index, prompt, seed=100 + index)
    turns: dict[object, list[TurnSample]] = {index: [] for index in range(6)}
    while finished := sampler.run():
        sampler.refresh()  # the same weights: nothing may change
        for sample in finished:
            turns[sample.key].append(sample)
            if len(turns[sample.key]) <= len(texts):
                sampler.extend(sample.key, texts[len(turns[sample.key]) - 1])
    assert {key: [turn.token_ids for turn in row] for key, row in turns.items()} == {
        key: [turn.token_ids for turn in row] for key, row in plain.items()
    }


def test_seeds_decide(model, tokenizer) -> None:
    sampler = make(model, tokenizer, slots=8, seed=5)
    for key, seed in enumerate([1, 1, 2, 2**64 - 1]):
        sampler.start(key, [30, 31, 32], seed=seed)
    turns = {sample.key: sample.token_ids for sample in sampler.run(minimum=4)}
    assert turns[0] == turns[1]
    assert len({turns[0], turns[2], turns[3]}) > 1
    other = make(model, tokenizer, seed=6)
    for key, seed in enumerate([1 ^ 5 ^ 6, 2]):
        other.start(key, [30, 31, 32], seed=seed)
    again = {sample.key: sample.token_ids for sample in other.run(minimum=2)}
    assert again[0] == turns[0]


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 0},
        {"context_tokens": 0},
        {"turn_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"stop_strings": "</search>"},
        {"stop_strings": ("",)},
    ],
)
def test_options_that_cannot_be_used(model, tokenizer, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        make(model, tokenizer, **options)


def test_a_greedy_context_leaves_the_sampler_as_it_was(model, tokenizer, workload) -> None:
    prompts, texts = workload
    greedy = play(make(model, tokenizer, temperature=0.0), prompts, texts)
    mixed, untouched = (make(model, tokenizer, slots=4) for _ in range(2))
    with mixed.greedy():
        inside = play(mixed, prompts, texts)
    assert [[turn.token_ids for turn in inside[row]] for row in inside] == [
        [turn.token_ids for turn in greedy[row]] for row in greedy
    ]
    assert play(mixed, prompts, texts) == play(untouched, prompts, texts)
    mixed.start("row", prompts[0], seed=1)
    with pytest.raises(ConfigError, match="1 rows are being sampled"), mixed.greedy():
        pass


def test_a_turn_after_no_environment_text_goes_on_from_the_last_token(model, tokenizer) -> None:
    turns = []
    for limits in ((6,), (3, 3)):
        sampler = make(model, tokenizer, stop_strings=(), turn_tokens=6)
        sampler.start("a", [3, 4], seed=0, turn_tokens=limits[0])
        ids = list(sampler.run()[0].token_ids)
        for limit in limits[1:]:
            sampler.extend("a", [], turn_tokens=limit)
            ids += sampler.run()[0].token_ids
        turns.append(ids)
    assert turns[0] == turns[1]


def test_misuse_is_named(model, tokenizer) -> None:
    sampler = make(model, tokenizer)
    with pytest.raises(ConfigError, match="at least one token"):
        sampler.start("a", [], seed=0)
    with pytest.raises(ConfigError, match="token ids"):
        sampler.start("a", [3, len(tokenizer)], seed=0)
    with pytest.raises(ConfigError, match="token ids"):
        sampler.start("a", [-1], seed=0)
    sampler.start("a", [3], seed=0)
    with pytest.raises(ConfigError, match="in use"):
        sampler.start("a", [3], seed=0)
    with pytest.raises(ConfigError, match="not finished"):
        sampler.extend("a", [3])
    sampler.run()
    for call in (lambda: sampler.extend("b", [3]), lambda: sampler.finish("b")):
        with pytest.raises(ConfigError, match="no row"):
            call()


def test_a_model_without_special_tokens(tokenizer) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    model = new_model(tiny_config(len(tokenizer), hidden=16, layers=1, heads=2, mlp=16))
    assert end_ids(model, bare, len(tokenizer)) == set()
    sampler = make(model, bare, stop_strings=(), turn_tokens=5)
    sampler.start(0, [3, 4], seed=0)
    (sample,) = sampler.run()
    assert (sample.finish, len(sample.token_ids)) == ("length", 5)
    model.generation_config.eos_token_id = [7, 9, 10**6]
    assert end_ids(model, tokenizer, len(tokenizer)) == {7, 9, tokenizer.eos_token_id}


# Drawing


def test_draws_follow_the_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    for vocabulary in (3, 64, 65, 200):
        logits = 3 * torch.randn(1, vocabulary, generator=generator)
        logits[0, 1] = float("-inf")
        count = 20_000
        uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        tokens, logprobs = draw(logits.expand(count, -1).clone(), uniforms, 0.7)
        expected = (logits[0] / 0.7).softmax(-1)
        assert torch.all(tokens.diff() >= 0)  # the inverse of a cumulative distribution never falls
        shares = torch.bincount(tokens, minlength=vocabulary) / count
        assert torch.allclose(shares, expected, atol=2e-4)
        assert torch.allclose(logprobs, expected.log()[tokens], atol=1e-5)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 200), st.floats(0.01, 1), st.sampled_from([0.0, 0.7, 1.0]))
def test_a_nucleus_is_the_shortest_run_of_likely_tokens(
    seed: int, vocabulary: int, top_p: float, temperature: float
) -> None:
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed))
    uniforms = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    tokens, logprobs = draw(logits.expand(200, -1).clone(), uniforms, temperature, top_p)
    if temperature == 0:
        assert set(tokens.tolist()) == {int(logits.argmax())}
        return
    shares = (logits / temperature).softmax(-1)
    kept, total = [], 0.0
    for token in shares.argsort(descending=True, stable=True).tolist():
        if total < top_p - 1e-6:
            kept.append(token)
        total += float(shares[token])
    assert set(tokens.tolist()) <= set(kept)
    renormalised = shares[tokens] / shares[kept].sum()
    assert torch.allclose(logprobs, renormalised.log(), atol=1e-4) or abs(float(shares[kept].sum()) - top_p) < 1e-5


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 200), st.floats(0, 1, exclude_max=True))
def test_a_draw_is_never_impossible(seed: int, vocabulary: int, u: float) -> None:
    logits = 40 * torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed))
    logits[0, torch.arange(vocabulary) % 3 == 1] = float("-inf")
    for uniform_value in (u, 0.0, 1 - 2.0**-53):
        token, logprob = draw(logits.clone(), torch.tensor([uniform_value], dtype=torch.float64), 1.0)
        assert 0 <= int(token) < vocabulary
        assert torch.isfinite(logprob).all()


def test_greedy_takes_the_first_of_equals() -> None:
    logits = torch.zeros(3, 130)
    logits[1, 129] = 1.0
    logits[2, [70, 100]] = 2.0
    tokens, logprobs = draw(logits, torch.zeros(3, dtype=torch.float64), 0.0)
    assert tokens.tolist() == [0, 129, 70]
    assert torch.allclose(logprobs, logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0])


def test_logits_that_are_not_numbers_show() -> None:
    tokens, logprobs = draw(torch.full((2, 100), float("nan")), torch.rand(2, dtype=torch.float64), 1.0)
    assert torch.isnan(logprobs).all()
    assert ((tokens >= 0) & (tokens < 100)).all()


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 10**6)), min_size=1, max_size=5))
def test_row_uniforms_are_the_scalar_ones(pairs: list[tuple[int, int]]) -> None:
    seeds = np.array([seed for seed, _ in pairs], dtype=np.uint64)
    counters = np.array([counter for _, counter in pairs], dtype=np.int64)
    assert uniform_rows(seeds, counters).tolist() == [uniform(seed, counter) for seed, counter in pairs]


# Stop strings


@lru_cache
def finder_of(tokenizer: PreTrainedTokenizerFast, stop: str) -> StopFinder:
    return StopFinder(tokenizer, [stop], len(tokenizer))


@settings(max_examples=40)
@pytest.mark.parametrize("stop", ["</search>", "th", "。", "été", " a", "\n\n", "n of", "😀!"])
@given(text=st.text(max_size=30), data=st.data())
def test_stop_strings_are_found_with_the_token_that_completes_them(tokenizer, stop: str, text: str, data) -> None:
    """Also when a token boundary lies inside the string, or inside one of its characters."""
    cut = data.draw(st.integers(0, len(stop)))
    parts = [text, stop[:cut], stop[cut:], text]
    finder = finder_of(tokenizer, stop)
    ids = [token for part in parts for token in tokenizer.encode(part)]
    first = next(count for count in range(1, len(ids) + 1) if stop in decode(tokenizer, ids[:count]))
    found = [c for c in range(1, first + 1) if finder.candidates[ids[c - 1]] and finder.completed(ids[:c])]
    assert found == [first]


def test_few_tokens_are_candidates(tokenizer) -> None:
    finder = StopFinder(tokenizer, STOPS, len(tokenizer))
    pieces = [decode(tokenizer, [token]) for token in np.flatnonzero(finder.candidates)]
    assert pieces
    assert all(">" in piece for piece in pieces)
    assert not StopFinder(tokenizer, [], len(tokenizer)).candidates.any()
