"""Write your own training loop: GRPO in plain torch and Transformers, on `Episode`.

    python examples/training_loop.py

`Episode` holds the rules and does no input or output, so the loop below decides when to sample, search and update:

    episode.prompt -> tokens -> advance(text) -> SearchRequest -> engine -> observe(result) -> observation -> tokens ...

The tokens that the policy sampled are the tokens that are trained; prompt and documents are in the context with mask 0.
It runs one episode at a time to stay short. `zerosearch train` does the same in batches, with checkpoints and checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from zerosearch_agents.policy.files import policy_path
from zerosearch_env import Episode, SearchRequest, StopReason, load_dataset, make_engine, make_rules
from zerosearch_env.engines import SearchEngine
from zerosearch_env.llm.tokens import encode_prompts, encode_texts

TURN_TOKENS = 96
CONTEXT_TOKENS = 1536


@dataclass
class Rollout:
    """One finished episode as tokens."""

    token_ids: list[int] = field(default_factory=list)
    """Everything the policy read and wrote, length T."""
    mask: list[int] = field(default_factory=list)
    """1 for a token that the policy sampled, 0 for prompt and documents, length T."""
    reward: float = 0.0
    failed: bool = False
    """The search engine failed: the episode says nothing about the policy and is left out."""

    def append(self, ids: list[int], sampled: int) -> None:
        """Add tokens, and whether the policy sampled them."""
        self.token_ids += ids
        self.mask += [sampled] * len(ids)


@torch.no_grad()
def sample_turn(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: list[int], stop_strings: tuple[str, ...]
) -> list[int]:
    """Token ids of one turn, sampled at temperature 1; ends after a stop string, at the end token, or at the limit."""
    ids: list[int] = []
    inputs, cache = torch.tensor([context]), None
    for _ in range(TURN_TOKENS):
        output = model(input_ids=inputs, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        token = int(torch.multinomial(output.logits[0, -1].float().softmax(-1), 1))
        ids.append(token)
        # The last few tokens are enough to see a stop string that has just been completed.
        if token == tokenizer.eos_token_id or any(stop in tokenizer.decode(ids[-16:]) for stop in stop_strings):
            break
        inputs = torch.tensor([[token]])
    return ids


def play(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, episode: Episode, engine: SearchEngine) -> Rollout:
    """Play an episode to its end."""
    rollout = Rollout()
    (prompt,) = encode_prompts([episode.prompt], tokenizer, questions=[episode.question.text])
    rollout.append(prompt, sampled=0)
    while not episode.done:
        if len(rollout.token_ids) + TURN_TOKENS > CONTEXT_TOKENS:
            episode.stop(StopReason.CONTEXT_LIMIT)
            break
        ids = sample_turn(model, tokenizer, rollout.token_ids, episode.rules.protocol.stop_strings)
        rollout.append(ids, sampled=1)
        outcome = episode.advance(tokenizer.decode(ids, skip_special_tokens=True))
        if isinstance(outcome, SearchRequest):
            (result,) = engine.search([outcome])
            outcome = episode.observe(result)
        if outcome.observation:
            rollout.append(encode_texts([outcome.observation], tokenizer)[0], sampled=0)
    last = episode.turns[-1].step
    rollout.reward, rollout.failed = last.reward, last.stop_reason is StopReason.ENGINE_ERROR
    return rollout


def grpo_loss(model: PreTrainedModel, groups: list[list[Rollout]]) -> torch.Tensor | None:
    """-sum(A * log p) / sampled tokens, with A = (R - mean) / std over a question's rollouts (DeepSeekMath, eq. 3).

    One update per batch of rollouts: the ratio of new to old probabilities is 1, so no clipping is needed. None when no
    group has rollouts with different rewards: then there is nothing to learn from.
    """
    weighted: list[tuple[Rollout, float]] = []
    for group in groups:
        rewards = torch.tensor([rollout.reward for rollout in group if not rollout.failed])
        if len(rewards) < 2 or float(rewards.std()) == 0.0:
            continue
        mean, std = float(rewards.mean()), float(rewards.std())
        weighted += [(rollout, (rollout.reward - mean) / std) for rollout in group if not rollout.failed]
    if not weighted:
        return None
    tokens = sum(sum(rollout.mask) for rollout, _ in weighted)
    loss = torch.zeros(())
    for rollout, advantage in weighted:
        ids_T, mask_T = torch.tensor(rollout.token_ids), torch.tensor(rollout.mask, dtype=torch.bool)
        logits = model(input_ids=ids_T[None]).logits[0, :-1].float()
        logprobs = logits.log_softmax(-1).gather(1, ids_T[1:, None])[:, 0]
        loss = loss - advantage * logprobs[mask_T[1:]].sum() / tokens
    return loss


def train(steps: int = 2, questions: int = 2, group_size: int = 6, seed: int = 0) -> list[dict[str, Any]]:
    """Train the shipped base model for some steps; returns one row of metrics per step."""
    torch.manual_seed(seed)
    folder = policy_path("tiny")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=0.0)
    data, rules = load_dataset("world", "train"), make_rules()
    engine = make_engine("corpus", dataset=data)
    history = []
    for step in range(steps):
        noise = 0.5 * step / max(1, steps - 1)  # a linear curriculum
        groups = []
        for question in data.questions[step * questions : (step + 1) * questions]:
            episodes = [Episode(question, rules, noise_level=noise, seed=1000 * step + k) for k in range(group_size)]
            groups.append([play(model, tokenizer, episode, engine) for episode in episodes])
        loss = grpo_loss(model, groups)
        optimizer.zero_grad()
        if loss is not None:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        rewards = [rollout.reward for group in groups for rollout in group]
        reward = sum(rewards) / len(rewards)
        history.append({"step": step + 1, "noise": noise, "reward": reward, "updated": loss is not None})
        print(history[-1], flush=True)
    engine.close()
    return history


if __name__ == "__main__":
    train()
