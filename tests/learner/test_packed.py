"""Packed rollouts against padded ones and against the model's own forward pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from test_batch import make_rollout
from test_objective import CASES, make_config, make_samples, weigh

from zerosearch_agents.config.train import OptimizerConfig, TrainConfig
from zerosearch_agents.forward import dense_ops, direct
from zerosearch_agents.forward.batch import Sample, hidden_states, make_micro_batch, plan_micro_batches, token_logprobs
from zerosearch_agents.forward.direct import own_gradient
from zerosearch_agents.forward.mode import ForwardMode, disagreement, prepare_model
from zerosearch_agents.forward.packed import _attend_nodes, packed_hidden, recomputed, why_not_packed
from zerosearch_agents.forward.prefixes import Node
from zerosearch_agents.training.loss import loss_and_sums
from zerosearch_agents.training.optimizer import flat_gradient
from zerosearch_env.errors import ConfigError

SIZES = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
# Two continuations of a common prefix, one of which goes on, and a sequence without a prefix.
NODES = [Node(slice(0, 3)), Node(slice(3, 5), (slice(0, 3),)), Node(slice(5, 6), (slice(0, 3), slice(3, 5)))]
NODES += [Node(slice(6, 7), (slice(0, 3),)), Node(slice(7, 9))]
PADDED, PACKED = ForwardMode(), ForwardMode("sequences")


def make_model(kind: str = "Qwen3", **changes) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**(SIZES | changes))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    for parameter in model.parameters():  # biases and norms away from their neutral start
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def samples_of(lengths, seed=0):
    return [Sample(make_rollout(length, seed + index), 1.0, 0.1) for index, length in enumerate(lengths)]


def gradients(model, samples, mode):
    model.zero_grad()
    logprobs, entropy = token_logprobs(model, make_micro_batch(samples, mode=mode), 0.9)
    (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
    return logprobs.detach(), entropy, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["Qwen3", "Qwen2", "Llama"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_equals_padded_in_logprobs_and_gradients(kind, checkpointing):
    model = make_model(kind)
    samples = samples_of((40, 9, 23, 3, 300))  # the last one has several blocks of attention
    padded, packed = (
        gradients(model, samples, mode) for mode in (PADDED, replace(PACKED, checkpointing=checkpointing))
    )
    torch.testing.assert_close(packed[0], padded[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed[1], padded[1], atol=1e-5, rtol=1e-5)
    assert packed[2].keys() == padded[2].keys()
    for name, gradient in padded[2].items():
        torch.testing.assert_close(packed[2][name], gradient, atol=2e-5, rtol=1e-4, msg=name)


def test_changing_one_rollout_changes_no_bit_of_another():
    model = make_model()
    samples = samples_of((40, 30, 23))
    before = token_logprobs(model, make_micro_batch(samples, mode=PACKED))[0]
    changed = replace(samples[0].rollout, token_ids=(samples[0].rollout.token_ids[::-1] + 7) % 320)
    after = token_logprobs(model, make_micro_batch([replace(samples[0], rollout=changed), *samples[1:]], mode=PACKED))
    first = samples[0].rollout.sampled_tokens
    assert torch.equal(before[first:], after[0][first:])
    assert not torch.equal(before[:first], after[0][:first])


def test_a_rollout_without_a_read_token_is_packed_too():
    model = make_model()
    ids = torch.arange(20) % 320
    nothing = np.zeros(0, dtype=np.int64)
    got = packed_hidden(model, ids, [8, 12], [nothing, np.array([0, 11])])
    own = model.base_model(input_ids=ids[None, 8:], use_cache=False).last_hidden_state[0, [0, 11]]
    torch.testing.assert_close(got, own, atol=1e-5, rtol=1e-5)


def test_bfloat16_is_close_and_its_gradients_are_float32():
    model = make_model()
    samples = samples_of((40, 9, 150))
    whole = gradients(model, samples, PACKED)
    for mode in (ForwardMode("sequences", torch.bfloat16), ForwardMode("off", torch.bfloat16)):
        short = gradients(model, samples, mode)
        assert short[0].dtype == torch.float32
        torch.testing.assert_close(short[0], whole[0], atol=0.05, rtol=0.02)
        for name, gradient in whole[2].items():
            assert short[2][name].dtype == torch.float32
            error = (short[2][name] - gradient).norm() / gradient.norm()
            assert error < 0.06, (name, error)


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_packing_and_checkpoints_change_no_gradient(case):
    config = make_config(CASES[case])
    samples = weigh(make_samples(1), config.algorithm.aggregation)
    found = []
    for mode in (PADDED, PACKED, replace(PACKED, checkpointing=True)):
        for parts in ([samples], [samples[:1], samples[1:3], samples[3:]]):
            model = make_model()
            for part in parts:
                loss_and_sums(model, None, config, make_micro_batch(part, mode=mode))[0].backward()
            found.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], atol=1e-6, rtol=1e-5)


def test_padded_rows_with_checkpoints_are_the_same_and_leave_evaluation_mode_alone():
    samples = samples_of((40, 9))
    model = make_model(attention_dropout=0.5)
    plain = gradients(model, samples, PADDED)
    settings = OptimizerConfig(packing="off", gradient_checkpointing=True)
    mode = prepare_model(model, TrainConfig(optimizer=settings), 64)
    assert mode == ForwardMode("off", torch.float32, True)
    checkpointed = gradients(model, samples, mode)
    assert not model.training
    torch.testing.assert_close(checkpointed[0], plain[0], atol=1e-5, rtol=1e-5)
    for name, gradient in plain[2].items():
        torch.testing.assert_close(checkpointed[2][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_which_models_are_packed():
    auto = TrainConfig()
    for kind in ("Qwen3", "Qwen2", "Llama"):
        assert prepare_model(make_model(kind), auto, 64) == PACKED
    sliding = make_model("Qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1)
    assert "without full attention" in why_not_packed(sliding)
    other = transformers.AutoModelForCausalLM.from_config(
        transformers.GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "head_dim")})
    ).eval()
    assert prepare_model(other, auto, 64) == PADDED
    with pytest.raises(ConfigError, match="GPTNeoXForCausalLM is not one of"):
        prepare_model(other, TrainConfig(optimizer=OptimizerConfig(packing="sequences")), 64)
    with pytest.raises(ConfigError, match="needs a GPU"):
        prepare_model(make_model(), TrainConfig(optimizer=OptimizerConfig(packing="flex")), 64)


def test_a_model_that_computes_something_else_is_found(monkeypatch):
    model = make_model()
    assert disagreement(model, PACKED) is None
    assert disagreement(model, ForwardMode("sequences", torch.bfloat16)) is None
    model.base_model.layers[0].mlp.act_fn = torch.nn.ReLU()
    assert "differ" in disagreement(model, PACKED)
    assert prepare_model(model, TrainConfig(), 64) == PADDED


def test_a_leak_between_sequences_is_found(monkeypatch):
    plan = dense_ops.plan_blocks
    monkeypatch.setattr(
        "zerosearch_agents.forward.packed.plan_blocks", lambda nodes, *_: plan([Node(slice(0, nodes[-1].tokens.stop))])
    )
    with pytest.raises(ConfigError, match=r"differ|see each other"):
        prepare_model(make_model(), TrainConfig(optimizer=OptimizerConfig(packing="sequences")), 64)


def test_transformers_own_packing_is_the_same():
    model = make_model()
    samples = samples_of((40, 9, 23))
    ours = hidden_states(model, make_micro_batch(samples, mode=PACKED))
    theirs = hidden_states(
        model, make_micro_batch(samples, mode=ForwardMode("flex"))
    )  # sdpa stands in for flex on a CPU
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert disagreement(model, ForwardMode("flex")) is None


@pytest.mark.parametrize("operation", ["norm", "rotate", "swiglu", "attention"])
def test_backward_passes_by_finite_differences(operation):
    """In double precision as far as the operation keeps it; the norm and the rotation compute in float32."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, dtype=torch.float64):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    if operation == "swiglu":
        assert torch.autograd.gradcheck(dense_ops.swiglu, (normal(5, 4), normal(5, 4)))
        return
    if operation == "attention":
        blocks = dense_ops.plan_blocks(NODES, np.array([1, 3, 4, 5, 6, 7]))
        whole = (normal(6, 4, 2), normal(9, 2, 2), normal(9, 2, 2))
        assert torch.autograd.gradcheck(lambda *qkv: dense_ops.attend_blocks(*qkv, blocks), whole, atol=1e-4)
        return
    x, gain = normal(6, 3, 8, dtype=torch.float32), normal(8, dtype=torch.float32)
    angle = torch.rand(6, 1, 4, generator=generator)
    weights = torch.randn(6, 3, 8, generator=generator)

    def plain():
        if operation == "norm":
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3) * gain
        left, right = x.chunk(2, -1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)

    def ours():
        if operation == "norm":
            return dense_ops.rms_norm(x, gain, 1e-3, torch.float32)
        return dense_ops.rotate(x, angle.cos(), angle.sin(), torch.float32)

    expected, got = plain(), ours()
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    inputs = (x, gain) if operation == "norm" else (x,)
    for a, b in zip(
        torch.autograd.grad((expected * weights).sum(), inputs),
        torch.autograd.grad((got * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_a_gpu_is_that_of_a_cpu(dtype):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(9, heads, 8, generator=generator).to(dtype) for heads in (4, 2, 2))
    expected = dense_ops.attend_blocks(q, k, v, dense_ops.plan_blocks(NODES))
    got = _attend_nodes(q, k, v, NODES)
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    torch.testing.assert_close(got, expected, **close)


def test_packing_counts_real_tokens():
    lengths = [50, 40, 30, 20, 10]
    assert plan_micro_batches(lengths, 60, packed=True) == [[0, 4], [1, 3], [2]]


def test_inputs_of_linear_layers_are_recomputed_not_kept():
    model = make_model("Llama")
    (batch,) = [make_micro_batch(samples_of((40, 30)), mode=PACKED)]
    shapes: list[tuple[int, ...]] = []

    def keep(tensor):
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = token_logprobs(model, batch)[0].sum()
    wide = model.config.intermediate_size
    assert shapes.count((70, wide)) == 2  # gate and up of the first layer; the last one computes only what is read
    loss.backward()


def test_a_view_of_a_result_is_kept_as_a_copy_where_the_result_itself_is_computed_again():
    """Memory of results in `Scratch` is used again, so a layer that keeps a view of its input needs its values."""
    x, weight = torch.arange(6.0).reshape(2, 3), torch.ones(3, requires_grad=True)
    half, whole = torch.ones(1, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    result, again = x * weight.detach(), []

    def compute():
        again.append(1)
        return x * weight.detach()

    with recomputed(result, compute):
        loss = (result * whole).sum() + (result[1:] * half).sum()
    result.zero_()
    loss.backward()
    assert torch.equal(whole.grad, x)
    assert torch.equal(half.grad, x[1:])
    assert again == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_share_their_memory_and_their_gradients_do_not(dtype):
    generator = torch.Generator().manual_seed(0)
    scratch = dense_ops.Scratch(torch.full((5, 4), torch.nan, dtype=dtype))
    gains = torch.randn(2, 4, generator=generator)
    inputs = [torch.randn(rows, 4, generator=generator).requires_grad_() for rows in (5, 3)]
    expected = [dense_ops.rms_norm(x, gain, 1e-6, dtype) for x, gain in zip(inputs, gains, strict=True)]
    weights = [torch.randn(rows, 4, generator=generator, dtype=torch.float32).to(dtype) for rows in (5, 3)]
    wanted = [torch.autograd.grad(e, x, w)[0] for e, x, w in zip(expected, inputs, weights, strict=True)]
    first = dense_ops.rms_norm(inputs[0], gains[0], 1e-6, dtype, scratch)
    assert torch.equal(first, expected[0])
    second = dense_ops.rms_norm(inputs[1], gains[1], 1e-6, dtype, scratch)
    assert torch.equal(second, expected[1])
    assert first.data_ptr() == second.data_ptr() == scratch.values_TD.data_ptr()
    for result, x, weight, gradient in zip((first, second), inputs, weights, wanted, strict=True):
        assert torch.equal(torch.autograd.grad(result, x, weight)[0], gradient)


@pytest.fixture
def added_directly(monkeypatch):
    """The data pointers of the weights whose gradients were added without autograd."""
    pointers = set()

    def noted(weight):
        gradient = own_gradient(weight)
        if gradient is not None:
            pointers.add(weight.data_ptr())
        return gradient

    monkeypatch.setattr(direct, "own_gradient", noted)
    return pointers


@pytest.mark.parametrize("kind", ["Qwen3", "Qwen2", "Llama"])  # Qwen2 has biases
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_that_are_added_directly_are_those_of_autograd(kind, tied, added_directly):
    model = make_model(kind, tie_word_embeddings=tied, pad_token_id=7)
    samples = samples_of((40, 9, 23))
    samples[0].rollout.token_ids[3:6] = 7
    wanted = gradients(model, samples, PACKED)[2]
    assert not added_directly
    flat = flat_gradient(model)
    for _ in range(2):  # they add up over micro-batches
        logprobs, _ = token_logprobs(model, make_micro_batch(samples, mode=PACKED), 0.9)
        (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * wanted[name], atol=4e-5, rtol=1e-4, msg=name)
    assert float(flat.norm()) == pytest.approx(2 * float(torch.stack([g.norm() for g in wanted.values()]).norm()), 1e-4)
    matrices = [p for n, p in model.named_parameters() if "proj.weight" in n or "embed_tokens" in n]
    assert len(matrices) == 2 * 7 + 1
    assert added_directly == {matrix.data_ptr() for matrix in matrices}


@pytest.mark.parametrize("reason", ["frozen", "no gradient yet", "bfloat16 products"])
def test_a_layer_that_cannot_add_its_gradient_leaves_it_to_autograd(reason, added_directly):
    model = make_model("Llama")
    matrix = model.base_model.layers[0].mlp.up_proj.weight
    mode = ForwardMode("sequences", torch.bfloat16) if reason == "bfloat16 products" else PACKED
    if reason != "no gradient yet":
        flat_gradient(model)
    matrix.requires_grad_(reason != "frozen")
    token_logprobs(model, make_micro_batch(samples_of((12,)), mode=mode))[0].sum().backward()
    assert matrix.data_ptr() not in added_directly
    assert (float(matrix.grad.abs().sum()) > 0) == (reason != "frozen")
