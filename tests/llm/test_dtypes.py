"""The data type that "auto" chooses: fast on the device, and never fewer digits than the checkpoint has."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from zerosearch_env.llm.local import devices
from zerosearch_env.llm.local.devices import auto_dtype, inference_dtype, slow_dtype_note

LARGE = 135_000_000


@pytest.fixture(params=["old CPU", "new CPU", "old GPU", "new GPU"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Four machines, with and without instructions for bfloat16."""
    inference_dtype.cache_clear()
    new = request.param.startswith("new")
    monkeypatch.setattr(devices, "_cpu_flags", lambda: frozenset({"avx2", "avx512_bf16"} if new else {"avx2"}))
    cuda = SimpleNamespace(is_available=lambda: True, is_bf16_supported=lambda including_emulation: new)
    monkeypatch.setattr(devices, "require", lambda name: SimpleNamespace(cuda=cuda))
    yield str(request.param)
    inference_dtype.cache_clear()


def test_auto_is_fast_and_keeps_the_digits_of_the_checkpoint(machine: str) -> None:
    device = "cuda" if machine.endswith("GPU") else "cpu"
    fast = {"old CPU": "float32", "new CPU": "bfloat16", "old GPU": "float16", "new GPU": "bfloat16"}[machine]
    half = "float16" if device == "cuda" else "float32"
    assert inference_dtype(device) == fast
    assert auto_dtype(device, "bfloat16", LARGE) == fast
    assert auto_dtype(device, "float16", LARGE) == half
    for stored in ("float32", None):
        assert auto_dtype(device, stored, LARGE) == "float32"
    for stored in ("bfloat16", "float16"):
        assert auto_dtype(device, stored, 640_000) == "float32"  # the shipped models, whose figures are committed
    # What "auto" chooses is never warned about.
    assert {slow_dtype_note(device, auto_dtype(device, kind, LARGE)) for kind in ("bfloat16", "float16", None)} == {
        None
    }


def test_a_slow_choice_gets_one_line(machine: str) -> None:
    device = "cuda" if machine.endswith("GPU") else "cpu"
    note = slow_dtype_note(device, "bfloat16")
    if machine.startswith("new"):
        assert note is None
    else:
        assert note is not None
        assert f"dtype 'bfloat16' is slow on this {machine[4:]}" in note
        assert ("several times slower" in note) is (device == "cpu")
        assert "\n" not in note
    assert (slow_dtype_note(device, "float16") is None) is (device == "cuda")


def test_a_machine_that_says_nothing_about_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere:
        def __init__(self, path: str) -> None: ...

        def read_text(self, **options: str) -> str:
            raise FileNotFoundError

    monkeypatch.setattr(devices, "Path", Nowhere)
    assert devices._cpu_flags() == frozenset()
