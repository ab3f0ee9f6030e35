"""New tokens per CPU second of the sampler in multi-turn episodes, compared with a loop that re-reads the full context.

The workload: 32 episodes of 4 turns, prompts of 50 tokens, 150 document tokens after each of the first three turns,
temperature 1, no end token; turns of 64 tokens (`equal`) or of 16 to 112 (`varied`). The peer calls
`model.generate` once per turn on all episodes and feeds it the whole text again, which is what a rollout loop without a
cache between turns does; it runs each turn as long as the longest of its episodes needs. The model is a random Qwen3 of
width 256. The arithmetic limit is the least work (every token through the layers once, the head only where a token is
sampled) at the speed of one large matrix product. A second table has the shape of the quickstart's rollouts.

With `--model FOLDER`, a real model plays 16 episodes of 3 turns of 16 tokens, prompts of 60 tokens and 200 document
tokens between turns, in float32.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..measure import Case, Timing, default_output, make_parser, matrix_rate, measure, one_thread, write_record
from .learner.work import character_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPISODES, TURNS, PROMPT, DOCUMENT = 32, 4, 50, 150
MODEL_EPISODES, MODEL_TURNS, MODEL_LENGTH, MODEL_PROMPT, MODEL_DOCUMENT = 16, 3, 16, 60, 200
EQUAL, SHORTEST, LONGEST = 64, 16, 112
VOCABULARY, WIDTH, LAYERS = 4096, 256, 4


def main(argv: list[str] | None = None) -> int:
    """Measure, print the ratios, and write a JSON record."""
    parser = make_parser("sampler", __doc__, rounds=3)
    parser.add_argument("--turns", choices=("equal", "varied", "both"), default="both", help="turn lengths (both)")
    parser.add_argument("--tiny-only", action="store_true", help="only the table of the quickstart's shape")
    parser.add_argument("--model", help="folder of a Transformers model to measure instead of the small one")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # on shared cores spinning threads cost more than they give
    if arguments.model is not None:
        output = default_output("sampler-model") if arguments.output == default_output("sampler") else arguments.output
        with one_thread():
            record = compare_model(load_endless(arguments.model), arguments.rounds)
        write_record(output, ["torch", "transformers", "numpy"], model=Path(arguments.model).name, **record)
        return 0
    with one_thread():
        record = {} if arguments.tiny_only else _against_generate(arguments.turns, arguments.rounds)
        record["tiny_tokens_per_cpu_s"] = _tiny()
    write_record(arguments.output, ["torch", "transformers", "numpy"], **record)
    return 0


def load_endless(folder: str) -> Any:
    """Load a model in float32, without end tokens: every turn is as long as the workload says."""
    import torch
    from transformers import AutoModelForCausalLM

    from zerosearch_agents.policy.policy import quiet_transformers

    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    return model.eval()


def compare_model(model: Any, rounds: int) -> dict[str, Any]:
    """Measure both sides with a real model; print the ratio and return the record."""
    from zerosearch_agents.policy.policy import quiet_transformers

    lengths = np.full((MODEL_TURNS, MODEL_EPISODES), MODEL_LENGTH)
    vocabulary = int(model.get_output_embeddings().weight.shape[0])
    work = multi_turn(lengths, prompt=MODEL_PROMPT, document=MODEL_DOCUMENT, vocabulary=vocabulary)
    cases = [Case("sampler", sampler_case(model, work)), Case("generate per turn", generate_case(model, work))]
    with quiet_transformers():
        timings = measure(cases, rounds=rounds, seconds=0.0)
    ratio = timings["generate per turn"].over(timings["sampler"])
    for timing in timings.values():
        print(f"  {timing.name:<17} {timing.per_second:6.1f} new tokens per CPU second")
    print(f"  ratio {ratio:.2f}")
    return {
        "episodes": MODEL_EPISODES, "turns": MODEL_TURNS, "turn_tokens": MODEL_LENGTH, "prompt_tokens": MODEL_PROMPT,
        "document_tokens": MODEL_DOCUMENT, "ratio": ratio, "timings": timings,
    }  # fmt: skip


def _against_generate(which: str, rounds: int) -> dict[str, Any]:
    """Measure both sides; return the timings by case, the ratios, and the shares of the limit."""
    from zerosearch_agents.policy.policy import new_model, quiet_transformers, tiny_config

    config = tiny_config(VOCABULARY, hidden=WIDTH, layers=LAYERS, heads=4, kv_heads=2, mlp=768)
    model = new_model(config)
    model.generation_config.eos_token_id = None
    rate = matrix_rate()
    print(f"one thread, {rate / 1e9:.0f} GFLOP/s in one large product; new tokens per CPU second:")
    timings: dict[str, Timing] = {}
    record: dict[str, Any] = {"matrix_flops_per_cpu_s": rate}
    for name in ("equal", "varied") if which == "both" else (which,):
        lengths = _lengths(name)
        work = multi_turn(lengths, prompt=PROMPT, document=DOCUMENT, vocabulary=VOCABULARY)
        limit = int(lengths.sum()) * rate / _flops(lengths)
        ours, peer = f"sampler, {name}", f"generate from scratch, {name}"
        cases = [Case(ours, sampler_case(model, work)), Case(peer, generate_case(model, work))]
        with quiet_transformers():
            timings |= measure(cases, rounds=rounds, seconds=0.0)
        for case in (ours, peer):
            speed = timings[case].per_second
            print(f"  {case:<29} {speed:6.0f}  {speed / limit:4.0%} of the limit")
        ratio = timings[peer].over(timings[ours])
        record[name] = {"ratio": ratio, "of_limit": timings[ours].per_second / limit}
        print(f"  ratio {ratio:.2f}")
    return record | {"timings": timings}


@dataclass(frozen=True)
class MultiTurn:
    """Multi-turn episodes of random tokens."""

    prompts: list[list[int]]
    """By episode."""
    documents: list[list[list[int]]]
    """Tokens appended after each turn except the last, by turn and episode."""
    lengths: NDArray[np.int64]
    """New tokens, shape `(turns, episodes)`."""
    vocabulary: int
    """Ids that may be sampled."""

    @property
    def context_tokens(self) -> int:
        """Length of the longest episode, plus one."""
        fed = sum(map(len, (self.prompts[0], *(turn[0] for turn in self.documents))))
        return int(self.lengths.sum(0).max()) + fed + 1


def multi_turn(lengths: NDArray[np.int64], *, prompt: int, document: int, vocabulary: int) -> MultiTurn:
    """Make episodes with these turn lengths, with prompts and documents of the given numbers of tokens."""
    turns, episodes = lengths.shape
    rng = np.random.default_rng(1)
    prompts: list[list[int]] = rng.integers(10, vocabulary, (episodes, prompt)).tolist()
    documents: list[list[list[int]]] = rng.integers(10, vocabulary, (turns - 1, episodes, document)).tolist()
    return MultiTurn(prompts, documents, lengths, vocabulary)


def _lengths(name: str) -> NDArray[np.int64]:
    """Draw the new tokens of every turn and episode, shape `(TURNS, EPISODES)`."""
    if name == "equal":
        return np.full((TURNS, EPISODES), EQUAL)
    return np.random.default_rng(0).integers(SHORTEST, LONGEST + 1, (TURNS, EPISODES))


def sampler_case(model: Any, work: MultiTurn) -> Callable[[], int]:
    """Make a function that plays the episodes with this package's sampler and returns the number of sampled tokens."""
    from zerosearch_agents.sampling.local import Sampler

    turns, episodes = work.lengths.shape
    tokenizer = character_tokenizer(work.vocabulary)
    context, longest = work.context_tokens, int(work.lengths.max())

    def run() -> int:
        sampler = Sampler(model, tokenizer, slots=episodes, context_tokens=context, turn_tokens=longest)
        for episode, prompt in enumerate(work.prompts):
            sampler.start(episode, prompt, episode, turn_tokens=int(work.lengths[0, episode]))
        done, sampled = [0] * episodes, 0
        while finished := sampler.run():
            for sample in finished:
                episode = int(str(sample.key))
                sampled += len(sample.token_ids)
                turn = done[episode] = done[episode] + 1
                if turn == turns:
                    sampler.finish(episode)
                else:
                    limit = int(work.lengths[turn, episode])
                    sampler.extend(episode, work.documents[turn - 1][episode], turn_tokens=limit)
        if sampled != work.lengths.sum():
            raise RuntimeError(f"{sampled} tokens sampled instead of {work.lengths.sum()}")
        return sampled

    return run


def generate_case(model: Any, work: MultiTurn) -> Callable[[], int]:
    """Do the same in lock-step with `model.generate`, which recomputes the full context each turn."""
    import torch
    from transformers import GenerationConfig

    turns = len(work.lengths)

    def run() -> int:
        texts = [list(prompt) for prompt in work.prompts]
        for turn in range(turns):
            count = int(work.lengths[turn].max())
            width = max(map(len, texts))
            ids = torch.tensor([[0] * (width - len(text)) + text for text in texts], device=model.device)
            mask = [[0] * (width - len(text)) + [1] * len(text) for text in texts]
            config = GenerationConfig(
                max_new_tokens=count, min_new_tokens=count, do_sample=True, top_k=0, top_p=1.0, pad_token_id=0
            )
            with torch.inference_mode():
                seen = torch.tensor(mask, device=model.device)
                new = model.generate(ids, attention_mask=seen, generation_config=config)[:, width:]
            for episode, text in enumerate(texts):
                text += new[episode, : work.lengths[turn, episode]].tolist()
                if turn < turns - 1:
                    text += work.documents[turn][episode]
        return int(work.lengths.sum())

    return run


def _tiny() -> dict[str, float]:
    """Measure the speed of decoding and prefilling 128 rows of a model of width 128, by mean length of the rows."""
    from zerosearch_agents.policy.policy import new_model, tiny_config
    from zerosearch_env.llm.local.decoder import make_decoder
    from zerosearch_env.llm.local.draw import draw

    rows, chunk, steps, vocabulary = 128, 200, 20, 2048
    decoder = make_decoder(new_model(tiny_config(vocabulary)), rows, 2048)
    rng = np.random.default_rng(0)
    slots, lengths = np.arange(rows), np.zeros(rows, dtype=np.int64)
    speeds: dict[str, float] = {}
    import torch

    for turn in range(4):
        counts = rng.integers(chunk // 2, chunk * 3 // 2, rows) if turn else np.full(rows, 25)
        chunks = [rng.integers(0, vocabulary, count).tolist() for count in counts]
        start = time.process_time()
        decoder.prefill(slots.tolist(), lengths.tolist(), chunks)
        lengths = lengths + counts
        speeds[f"prefill to {lengths.mean():.0f}"] = counts.sum() / (time.process_time() - start)
        tokens = rng.integers(0, vocabulary, rows)
        start = time.process_time()
        for _ in range(steps):
            uniforms = torch.from_numpy(rng.random(rows))
            with torch.inference_mode():
                tokens = draw(decoder.step(slots, lengths, tokens), uniforms, 1.0)[0].numpy()
            lengths = lengths + 1
        speeds[f"decode at {lengths.mean():.0f}"] = rows * steps / (time.process_time() - start)
    print("128 rows, width 128, 4 layers, vocabulary 2,048; tokens per CPU-s:")
    for name, speed in speeds.items():
        print(f"  {name:<16} {speed:8.0f}")
    return speeds


def _flops(lengths: NDArray[np.int64]) -> float:
    """Count the unavoidable floating-point operations: products of layers, attention and head, each token once."""
    block = LAYERS * (2 * WIDTH * WIDTH + 2 * WIDTH * WIDTH // 2 + 3 * WIDTH * 768)
    fed = PROMPT + lengths.sum(0) + (TURNS - 1) * DOCUMENT - 1.0
    return float(
        2 * block * fed.sum()
        + 4 * LAYERS * WIDTH * (fed * (fed + 1) / 2).sum()
        + 2 * WIDTH * VOCABULARY * lengths.sum()
    )
