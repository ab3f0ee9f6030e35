"""A server that speaks vLLM's JSON over a real tiny model, with the faults that servers have."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from zerosearch_agents.sampling.stops import decode
from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread


class FakeVLLM(ServerThread):
    """Answers `/v1/completions` and the routes of `VLLM_SERVER_DEV_MODE=1`.

    Args:
        policy: model and tokenizer to start with; the model is copied.
        extension: whether it has our worker extension.
        stale_head: loads weights, and goes on with the old head (vLLM on a CPU with a tied head, without extension).
        beyond: tokens that it samples behind the end of a turn, as with speculative decoding.
        raw: gives log-probabilities at temperature 1 (vLLM's default).
        fail: answers completions with this status.

    With `held` it cannot empty its prefix cache.
    """

    def __init__(self, policy, *, extension=True, stale_head=False, beyond=0, raw=False, fail=0) -> None:
        super().__init__(self._answer)
        self.start_model = copy.deepcopy(policy.model)
        self.tokenizer = policy.tokenizer
        self.extension, self.stale_head, self.beyond, self.raw, self.fail = extension, stale_head, beyond, raw, fail
        self.held = False
        self.bodies: list[Any] = []
        self.paths: list[str] = []
        self.loaded: list[str] = []
        self.listed = {"id": "policy"}
        """Its entry in `/v1/models`."""
        self.routes = True
        """Whether it runs with VLLM_SERVER_DEV_MODE=1."""
        self.restart()

    def restart(self) -> None:
        """The weights that it was started with."""
        self.model = copy.deepcopy(self.start_model)
        self.head = None
        self.version = "default"
        self.paused = False

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _answer(self, call: Call) -> Reply:
        self.paths.append(call.path)
        if call.path == "/v1/models":
            return Reply({"data": [self.listed]})
        if call.path == "/v1/completions" and "return_token_ids" not in call.body:
            return Reply({"choices": [{"text": "Hi"}]})
        if not self.routes and call.path != "/v1/completions":
            return Reply({"error": "no such route"}, 404)
        if call.path in ("/pause?mode=abort", "/resume"):
            self.paused = call.path != "/resume"
            return Reply({"status": "done"})
        if call.path == "/v1/completions":
            assert not self.paused
            self.bodies.append(call.body)
            return Reply({"error": "broken"}, self.fail) if self.fail else Reply(self.complete(call.body))
        if call.path == "/collective_rpc":
            assert self.paused
            return self.rpc(call.body)
        if call.path == "/reset_prefix_cache":
            return Reply({"success": not self.held})
        if call.path == "/update_weight_version":
            self.version = call.body["new_version"]
            return Reply({"success": True})
        if call.path == "/weight_info":
            return Reply({"weight_version": self.version})
        return Reply({"error": "no such route"}, 404)

    def rpc(self, body: Any) -> Reply:
        names = {"zerosearch_load_folder"} if self.extension else {"reload_weights"}
        if body["method"] not in names:
            return Reply({"error": f"Worker has no method {body['method']}"}, 500)
        path = body["args"][0] if self.extension else body["kwargs"]["weights_path"]
        files = sorted(Path(path).glob("*.safetensors"))
        assert files, path
        self.loaded.append(path)
        if self.stale_head and self.head is None:
            self.head = self.model.get_output_embeddings().weight.detach().clone()
        with torch.no_grad():
            parameters = dict(self.model.named_parameters())
            given = {name: value for file in files for name, value in load_file(file).items()}
            assert set(given) == set(parameters)
            for name, value in given.items():
                parameters[name].copy_(value)
        return Reply({"results": [None]})

    @torch.no_grad()
    def complete(self, body: Any) -> Any:
        assert body["return_token_ids"]
        assert body["logprobs"] == 0
        generator = torch.Generator().manual_seed(body["seed"])
        ids, logprobs, left = [], [], None
        for _ in range(body["max_tokens"]):
            hidden = self.model.model(torch.tensor([[*body["prompt"], *ids]])).last_hidden_state[0, -1]
            head = self.model.get_output_embeddings().weight if self.head is None else self.head
            logits = head @ hidden
            processed = (logits / (body["temperature"] or 1.0)).log_softmax(-1)
            sampled = torch.multinomial(processed.exp(), 1, generator=generator)
            token = int(sampled if body["temperature"] else logits.argmax())
            ids.append(token)
            logprobs.append(float((logits.log_softmax(-1) if self.raw else processed)[token]))
            text = decode(self.tokenizer, ids)
            ended = token in body["stop_token_ids"] or any(stop in text for stop in body["stop"])
            left = self.beyond if ended and left is None else left
            if left is not None:
                if left == 0:
                    break
                left -= 1
        choice = {"token_ids": ids, "finish_reason": "length" if left is None else "stop"}
        return {"choices": [choice | {"logprobs": {"token_logprobs": logprobs}, "text": "not to be looked at"}]}
