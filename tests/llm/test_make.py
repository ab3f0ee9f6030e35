from __future__ import annotations

import pytest

from zerosearch_env.errors import ConfigError
from zerosearch_env.llm import OpenAIBackend, TransformersBackend, VLLMBackend
from zerosearch_env.llm.make import make_backend


@pytest.mark.parametrize("source", ["hf:org/name", "org/name", "hf:/models/x", "/models/x", "C:/models/x"])
def test_a_model_in_this_process(source: str) -> None:
    backend = make_backend(source, device="cpu", dtype=None, max_batch=3)
    assert isinstance(backend, TransformersBackend)
    assert backend.model == source.removeprefix("hf:")


def test_vllm_in_this_process() -> None:
    local = make_backend("vllm:org/name", engine_options={"dtype": "float16"})
    assert isinstance(local, VLLMBackend)
    assert local.model == "org/name"


def test_replicas_of_a_server_and_the_limits_of_its_client() -> None:
    backend = make_backend("openai:http://127.0.0.1:1/v1, http://127.0.0.1:2/v1#org/name", http={"concurrency": 3})
    assert isinstance(backend, OpenAIBackend)
    assert (backend.model, backend.concurrency) == ("org/name", 3)
    assert backend.client.urls == ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1")
    backend.close()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("hf:x", {"api": "chat"}, "'api' is not one of the backend 'hf', which has device, dtype, max_batch"),
        ("vllm:x", {"device": "cpu"}, "'device' is not one of the backend 'vllm'"),
        ("openai:http://h/v1#a", {"model": "b"}, "named twice: 'a' in the address and 'b' as an option"),
        ("openai:#a", {}, "address"),
        ("hf:", {}, "a model is needed"),
    ],
)
def test_bad_input(source: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_backend(source, **options)
