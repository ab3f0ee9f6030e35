"""The sampling parameters that vLLM gets, in this process or on a server."""

from __future__ import annotations

from typing import Any

from ..engine import TurnLimits, TurnRequest


def vllm_parameters(limits: TurnLimits, request: TurnRequest) -> dict[str, Any]:
    """vLLM's sampling parameters for a turn: fields of `SamplingParams`, and of the body of `/v1/completions`."""
    return {
        "n": 1,
        "max_tokens": request.max_tokens,
        "seed": request.seed,
        "temperature": 0.0 if request.greedy else limits.temperature,
        # vLLM would take missing fields from the model's generation config.
        **{"top_p": limits.top_p, "top_k": 0, "min_p": 0.0},
        **{"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
        "logprobs": 0,
        "stop": list(limits.stop_strings),
        "stop_token_ids": list(limits.end_ids),
        # Stop strings must be matched in the same text that our own decoding produces.
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    }
