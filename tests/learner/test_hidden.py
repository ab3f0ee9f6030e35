from __future__ import annotations

import pytest
import torch
import transformers

from zerosearch_agents.forward.attention import use_block_attention
from zerosearch_agents.forward.hidden import hidden_at

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def make_model(kind: str, **changes) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**(SIZES | changes))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    for parameter in model.parameters():  # biases and norms away from their neutral start
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("kind", ["Qwen3", "Qwen2", "Llama", "sliding", "GPTNeoX", "blocks"])
def test_hidden_states_and_gradients_are_those_of_the_whole_model(kind):
    if kind == "sliding":  # not every layer attends to everything: the plain way
        model = make_model("Qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1)
    elif kind == "GPTNeoX":  # another decoder layer: the plain way
        model = make_model(kind)
    else:
        model = make_model("Qwen3" if kind == "blocks" else kind)
    if kind == "blocks":
        use_block_attention(model)
    ids = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    rows, positions = torch.tensor([0, 0, 0, 2, 2]), torch.tensor([3, 4, 11, 0, 6])
    expected = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[rows, positions]
    got = hidden_at(model, ids, rows, positions, (3, 0, 2))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(2))
    gradients = []
    for hidden in (expected, got):
        model.zero_grad()
        (hidden * weights).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-4, msg=name)
