"""An initialisation with which a tiny Qwen3 model can copy from its context from the first training step.

A pretrained language model has induction heads. An induction head finds an earlier occurrence of the current token and
predicts the token that followed it there:

    ... A B ... A  ->  B

A tiny model can learn this, but it takes most of a small token budget. Here it is written into the weights, which all
stay trainable. The residual stream of width `hidden` is divided as follows:

    dim:    0         1 ... hidden/2 - 1    hidden/2 ...        hidden/2 + head_dim ...        (rest)
          constant    token identity        code of token t-1   code of token t-2

- Layer 0, heads 0 and 1 attend exactly one and two positions back (constant queries and keys, rotated by the offset).
  They write a linear code of the token there into the third and fourth block.
- Layer 1, head 0 compares the current token with the code of t-1 at each earlier position. Where they match, the token
  there follows an earlier occurrence of the current one, and its identity is copied: induction on one token.
- Layer 1, head 1 does the same with the previous token and the code of t-2: together they do induction on two tokens.
- The last layer's heads 0 and 1 subtract the token's own identity, which the tied embeddings would otherwise predict.
- Every other head starts as a similarity search that copies what it finds (W_k is close to W_q, W_o is a multiple of
  W_v transposed).

On random sequences that repeat, the untrained model predicts 95 % of the repetition correctly (width 128, 4 layers).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from zerosearch_env.errors import ConfigError

from ..policy.policy import new_model, tiny_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..config.tiny import ModelShape

ROPE_THETA = 1e6
"""A base large enough that slow rotary pairs can match content over a whole episode (hundreds of tokens)."""

_SLOW = 0.006
"""A rotary pair slower than this, in radians per position, is used to match content."""


def new_tiny_model(
    shape: ModelShape,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    vocab_size: int | None = None,
    context_tokens: int = 4096,
) -> PreTrainedModel:
    """Make a tiny Qwen3 model that can copy from its context before any training.

    Args:
        shape: its sizes.
        tokenizer: its tokenizer.
        seed: seed of all weights.
        vocab_size: number of token ids; None: those of the tokenizer.
        context_tokens: maximum sequence length that the model declares.
    """
    model = new_model(
        tiny_config(
            vocab_size or len(tokenizer),
            hidden=shape.hidden,
            layers=shape.layers,
            heads=shape.heads,
            mlp=shape.mlp,
            context_tokens=context_tokens,
            rope_theta=ROPE_THETA,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        seed=seed,
    )
    induction_init(model, seed=seed)
    return model


@torch.no_grad()
def induction_init(model: PreTrainedModel, *, seed: int = 0, gain: float = 2.0, copy: float = 2.0) -> None:
    """Overwrite the attention and embedding weights of a tiny Qwen3 model as described in the module docstring.

    Args:
        model: a Qwen3 model in fp32 on the CPU, with at least 3 layers, at least 2 heads, head_dim <= hidden / 4, as
            many key/value heads as query heads, and tied embeddings. The MLPs are not changed.
        seed: seed of the random projections; the same seed gives the same weights.
        gain: initial weight of the query and key norms (sharpness of attention).
        copy: scale of the induction heads' output.

    Raises:
        ConfigError: the model has another architecture.
    """
    config: Any = model.config
    body: Any = model.model
    width, heads, head_dim = config.hidden_size, config.num_attention_heads, config.head_dim
    layers_fit = config.num_hidden_layers >= 3  # with fewer, the last layer's heads would overwrite layer 0's or 1's
    if not layers_fit or heads < 2 or config.num_key_value_heads != heads or head_dim * 4 > width:
        raise ConfigError(
            "induction_init needs 3 or more layers, 2 or more heads, kv_heads = heads and head_dim <= hidden / 4; got "
            f"{config.num_hidden_layers} layers, {heads} heads, {config.num_key_value_heads} kv_heads, "
            f"head_dim {head_dim}, hidden {width}."
        )
    if config.model_type != "qwen3" or not config.tie_word_embeddings:
        tied = "tied" if config.tie_word_embeddings else "untied"
        raise ConfigError(f"induction_init needs a qwen3 model with tied embeddings, got {config.model_type}, {tied}.")
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def orthonormal(rows: int, columns: int) -> torch.Tensor:
        """A random matrix with orthonormal rows, shape `(rows, columns)`."""
        return torch.linalg.qr(normal(columns, rows))[0].T

    identity = slice(1, width // 2)
    identities = width // 2 - 1
    previous = slice(width // 2, width // 2 + head_dim)
    before_previous = slice(width // 2 + head_dim, width // 2 + 2 * head_dim)
    frequencies = body.rotary_emb.inv_freq.float()
    slow = (frequencies < _SLOW).repeat(2)
    slow_dims = int(slow.sum())
    if not slow_dims:
        raise ConfigError(
            f"induction_init needs a rotary pair slower than {_SLOW} radians per position to match content, and this "
            f"model has none: use larger heads (head_dim {head_dim}) or rope_theta={ROPE_THETA:g}."
        )

    embedding = body.embed_tokens.weight
    embedding.copy_(0.05 * normal(*embedding.shape))
    embedding[:, identity] = normal(embedding.shape[0], identities)
    embedding[:, 0] = 2.0  # the constant from which the position heads compute their queries and keys
    body.norm.weight.fill_(0.15)

    # A random projection of the identity to head_dim dimensions: (head_dim, width), zero outside the identity block.
    code = torch.zeros(head_dim, width)
    code[:, identity] = orthonormal(head_dim, identities) * math.sqrt(identities / head_dim) * 0.7

    def look_back(attention: Any, head: slice, distance: float) -> None:
        # The key is the same vector at every position, and the query is that vector rotated by -distance. RoPE then
        # aligns query and key exactly `distance` positions apart.
        attention.q_proj.weight[head] = 0.02 * normal(head_dim, width) / math.sqrt(width)
        attention.k_proj.weight[head] = 0.02 * normal(head_dim, width) / math.sqrt(width)
        half = head_dim // 2
        attention.k_proj.weight[head, 0] = torch.cat([torch.ones(half), torch.zeros(half)])
        angles = -distance * frequencies
        attention.q_proj.weight[head, 0] = torch.cat([angles.cos(), angles.sin()])

    slices = [slice(h * head_dim, (h + 1) * head_dim) for h in range(heads)]
    layers = body.layers
    for layer in layers:
        attention = layer.self_attn
        attention.q_norm.weight.fill_(gain)
        attention.k_norm.weight.fill_(gain)
        for head in slices:
            query = normal(head_dim, width) / math.sqrt(width)
            query[~slow] *= 0.15
            attention.q_proj.weight[head] = query
            attention.k_proj.weight[head] = query + 0.1 * normal(head_dim, width) / math.sqrt(width)
            value = normal(head_dim, width) / math.sqrt(width)
            attention.v_proj.weight[head] = value
            attention.o_proj.weight[:, head] = 0.2 * value.T

    first = layers[0].self_attn
    for head, distance, target in ((slices[0], 1.0, previous), (slices[1], 2.0, before_previous)):
        look_back(first, head, distance)
        first.v_proj.weight[head] = code
        first.o_proj.weight[:, head] = 0.02 * normal(width, head_dim) / math.sqrt(width)
        first.o_proj.weight[target, head] = torch.eye(head_dim)

    second = layers[1].self_attn
    for number, head in enumerate(slices[:2]):
        compress = orthonormal(slow_dims, head_dim)
        query, key = torch.zeros(head_dim, width), torch.zeros(head_dim, width)
        sought, stored = torch.zeros(slow_dims, width), torch.zeros(slow_dims, width)
        # Only the slow rotary pairs are used, so that the match does not depend on the distance.
        if number == 0:
            sought = compress @ code
        else:
            sought[:, previous] = compress
        stored[:, previous if number == 0 else before_previous] = compress
        query[slow], key[slow] = sought, stored
        second.q_proj.weight[head] = query + 0.02 * normal(head_dim, width) / math.sqrt(width)
        second.k_proj.weight[head] = key + 0.02 * normal(head_dim, width) / math.sqrt(width)
        value = torch.zeros(head_dim, width)
        value[:, identity] = orthonormal(head_dim, identities)
        second.v_proj.weight[head] = value
        second.o_proj.weight[:, head] = copy * value.T

    last = layers[-1].self_attn
    for number, head in enumerate(slices[:2]):
        look_back(last, head, 0.0)
        value = torch.zeros(head_dim, width)
        for row, dim in enumerate(range(1 + number * head_dim, min(1 + (number + 1) * head_dim, width // 2))):
            value[row, dim] = 1.0
        last.v_proj.weight[head] = value
        last.o_proj.weight[:, head] = -value.T
