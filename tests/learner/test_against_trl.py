"""Our losses against TRL's own code (`GRPOTrainer._compute_loss`, `RLOOTrainer._compute_loss`) on random tensors.

TRL's methods run as they are, on a stand-in for the trainer that hands them log-probabilities instead of a model's.
Compared are the loss and its gradient. TRL computes advantages in the middle of a method that also generates, so these
are checked against plain loops instead (test_advantages.py). Last run with TRL 1.16.0.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zerosearch_agents.config.algorithms import AlgorithmConfig, apply_algorithm
from zerosearch_agents.objective.kl import kl_k3, kl_loss
from zerosearch_agents.objective.losses import entropy_bonus, token_weights, truncated_importance_weights
from zerosearch_agents.training.loss import policy_loss

pytestmark = pytest.mark.filterwarnings("ignore")  # what TRL and its libraries warn of is not ours

ROWS, LENGTH, CONSTANT = 6, 11, 20


@pytest.fixture(scope="module")
def trl():
    pytest.importorskip("trl", reason="trl is not installed (extra trl)")
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    return SimpleNamespace(grpo=GRPOTrainer, rloo=RLOOTrainer)


def tensors(seed: int, spread: float = 0.4) -> SimpleNamespace:
    """Random completions as rectangles (TRL) and as flat vectors over the sampled tokens (ours).

    The mask has holes, as where an environment's text stands between two turns.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(scale=1.0):
        return scale * torch.randn(ROWS, LENGTH, generator=generator, dtype=torch.float64)

    mask = torch.rand(ROWS, LENGTH, generator=generator) < 0.6
    mask[:, 0] = True
    old = -normal().abs()
    logprobs = old + normal(spread)
    found = SimpleNamespace(mask=mask, old=old, reference=old + normal(0.3), entropy=normal().abs())
    found.logprobs, found.sampler = logprobs, old + normal(0.3)
    found.advantages = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    return found


def trainer(data, **settings):
    """What `_compute_loss` reads of a trainer, in evaluation mode: no gradient accumulation."""
    defaults = {
        "loss_type": "grpo", "importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.2,
        "beta": 0.0, "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "use_vllm": False,
        "vllm_importance_sampling_correction": True, "aux_loss_enabled": False, "max_completion_length": CONSTANT,
        "use_adaptive_entropy": False, "entropy_coef": 0.0, "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": bool(settings.get("entropy_coef")),
    }  # fmt: skip
    arguments = SimpleNamespace(delta=settings.pop("delta", None), use_bias_correction_kl=False, steps_per_generation=1)
    return SimpleNamespace(
        **(defaults | settings),
        args=arguments,
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *a, **k: (data.logprobs, data.entropy, None),
    )


def inputs_of(data) -> dict[str, torch.Tensor]:
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    return {
        "prompt_ids": ids[:, :2], "prompt_mask": ids[:, :2] + 1, "completion_ids": ids,
        "completion_mask": torch.ones(ROWS, LENGTH, dtype=torch.long), "tool_mask": data.mask.long(),
        "advantages": data.advantages, "old_per_token_logps": data.old, "ref_per_token_logps": data.reference,
        "num_items_in_batch": data.mask.sum(),
    }  # fmt: skip


def theirs(trl, data, extra=None, **settings):
    data.logprobs = data.logprobs.detach().clone().requires_grad_()
    stand_in = trainer(data, **settings)
    loss = trl.grpo._compute_loss(stand_in, None, inputs_of(data) | (extra or {}))
    loss.backward()
    return loss.detach(), data.logprobs.grad


def ours(data, algorithm: AlgorithmConfig, *, importance: bool = False, entropy: float = 0.0):
    """The objective's own function, on flat vectors, its result put back into a rectangle."""
    mask = data.mask
    rows_N, counts = mask.nonzero()[:, 0], mask.sum(1)
    logprobs_N = data.logprobs.detach()[mask].clone().requires_grad_()
    weights_R = token_weights(counts.numpy().astype(np.int64), algorithm.aggregation, CONSTANT)
    weights_N = torch.from_numpy(weights_R)[rows_N]
    batch = SimpleNamespace(
        old_logprobs_N=data.old[mask], advantages_N=data.advantages[rows_N], rows_N=rows_N, rows=ROWS
    )
    importance_N = torch.ones_like(weights_N)
    if importance:
        importance_N, _ = truncated_importance_weights(
            data.old[mask], data.sampler[mask], algorithm.importance_cap, algorithm.importance_sampling, rows_N, ROWS
        )
    loss, _ = policy_loss(algorithm, batch, logprobs_N, weights_N * importance_N)
    if algorithm.kl_coefficient and algorithm.kl_in == "loss":
        loss = loss + kl_loss(kl_k3(logprobs_N, data.reference[mask]), weights_N, algorithm.kl_coefficient)
    if entropy:
        loss = loss + entropy_bonus(data.entropy[mask], weights_N, entropy)
    loss.backward()
    gradient = torch.zeros(ROWS, LENGTH, dtype=torch.float64)
    gradient[mask] = logprobs_N.grad
    return loss.detach(), gradient


CASES = {
    "grpo": ("grpo", {}, {"loss_type": "grpo", "beta": 0.04}),
    "grpo with separate bounds": ("grpo", {"clip_high": 0.28}, {"beta": 0.04, "epsilon_high": 0.28}),
    "dr-grpo": ("dr-grpo", {}, {"loss_type": "dr_grpo"}),
    "dapo": ("dapo", {}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "token mean of the micro-batch": ("dapo", {"clip_high": 0.2}, {"loss_type": "bnpo"}),
    "dual clip": ("dapo", {"dual_clip": 1.5}, {"loss_type": "dapo", "epsilon_high": 0.28, "delta": 1.5}),
    "gspo": (
        "gspo",
        {},
        {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
    ),
    "gspo with wide bounds": (
        "gspo",
        {"clip_low": 0.1, "clip_high": 0.1},
        {"importance_sampling_level": "sequence", "epsilon_low": 0.1, "epsilon_high": 0.1},
    ),
    "cispo": ("cispo", {}, {"loss_type": "cispo", "epsilon_high": 5.0}),  # TRL's bound is 1 + ours
    "cispo, often clipped": ("cispo", {"clip_high": 0.1}, {"loss_type": "cispo", "epsilon_high": 1.1}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.slow
def test_losses_and_gradients_are_trls(trl, case, seed):
    name, changes, settings = CASES[case]
    data = tensors(seed)
    algorithm = replace(apply_algorithm(AlgorithmConfig(), name), **changes)
    expected, gradient = theirs(trl, data, **settings)
    loss, own = ours(data, algorithm)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(own, gradient, rtol=1e-10, atol=1e-12)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.slow
def test_truncated_importance_sampling_is_trls(trl, level):
    data = tensors(2)
    gap = (data.old - data.sampler) * data.mask
    ratio = torch.exp(gap if level == "token" else gap.sum(-1, keepdim=True)).clamp(max=2.0)  # TRL's *_truncate
    expected, gradient = theirs(
        trl, data, {"importance_sampling_ratio": ratio}, loss_type="dapo", epsilon_high=0.28, use_vllm=True
    )
    algorithm = replace(apply_algorithm(AlgorithmConfig(), "dapo"), importance_sampling=level, importance_cap=2.0)
    loss, own = ours(data, algorithm, importance=True)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(own, gradient)


@pytest.mark.slow
def test_the_entropy_bonus_is_trls(trl):
    """TRL's bonus is a token mean whatever the loss; ours follows the aggregation, so token mean is compared."""
    data = tensors(3)
    expected, _ = theirs(trl, data, loss_type="dapo", epsilon_high=0.28, entropy_coef=0.01)
    loss, _ = ours(data, apply_algorithm(AlgorithmConfig(), "dapo"), entropy=0.01)
    torch.testing.assert_close(loss, expected)


@pytest.mark.slow
def test_rloo_has_trls_gradient_on_policy(trl):
    """TRL clips the ratio of the whole answer; on what the policy has just sampled that is -A * log pi(answer)."""
    data = tensors(4)
    data.mask[:] = True  # TRL's RLOO has no mask for environment text
    data.old = data.logprobs.detach()
    data.logprobs = data.logprobs.detach().clone().requires_grad_()
    stand_in = trainer(data)
    stand_in.accelerator.gather = lambda x: x
    trl.rloo._compute_loss(stand_in, None, inputs_of(data) | {"old_logps": data.old.sum(1)}).backward()
    expected = data.logprobs.grad
    _, own = ours(data, apply_algorithm(AlgorithmConfig(), "rloo"))
    torch.testing.assert_close(own * CONSTANT, expected)  # ours divides by the constant length, theirs does not
