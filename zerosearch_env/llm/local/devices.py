"""The device and the data type of a model in this process."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from ...errors import ConfigError, MissingExtraError, require, sentence

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""The words for the data type of a model that is only read; for "auto" see `auto_dtype`."""
_SMALL = 100_000_000
"""With fewer parameters than this a model is not faster in 16 bits: its weights are not what takes the time."""
_CPU_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86, x86, ARM


def check_device(device: str) -> str:
    """Check that this machine and this build of torch have a device, before anything is loaded.

    Args:
        device: for example `"cpu"` or `"cuda"`.

    Returns:
        The device.

    Raises:
        ConfigError: there is no such device; the message gives torch's reason.
        MissingExtraError: torch is not installed.
    """
    torch = require("torch")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as cause:
        reason = sentence(str(cause).partition("\n")[0])
        raise ConfigError(
            f"the device {device!r} cannot be used here: {reason} GPUs found: {torch.cuda.device_count()}. Use "
            "'cpu', or a build of torch for your GPU"
        ) from cause
    return device


def default_device() -> str:
    """A GPU if there is one that torch can use, else the CPU."""
    try:
        return "cuda" if require("torch").cuda.is_available() else "cpu"
    except MissingExtraError:
        return "cpu"


@functools.cache
def inference_dtype(device: str) -> str:
    """The fastest data type of at most 32 bits on a device.

    Without instructions for it, bfloat16 is several times slower than float32 on a CPU.

    Args:
        device: for example `"cpu"` or `"cuda"`.

    Returns:
        `"bfloat16"` where the device has instructions for it, else `"float32"` on a CPU and `"float16"` on a GPU.
    """
    if device.startswith("cuda"):
        cuda = require("torch").cuda
        bf16 = cuda.is_available() and cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if bf16 else "float16"
    return "float32" if _CPU_INSTRUCTIONS.isdisjoint(_cpu_flags()) else "bfloat16"


def _cpu_flags() -> frozenset[str]:
    """The instructions of this CPU as Linux names them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(line[1].split()) if line else frozenset()


def auto_dtype(device: str, stored: str | None, parameters: int) -> str:
    """The data type in which a model is read: what is fast on the device, and loses nothing that the checkpoint has.

    Args:
        device: for example `"cpu"` or `"cuda"`.
        stored: the data type of the checkpoint; None: not known.
        parameters: the model's number of parameters.

    Returns:
        `"float32"` for a float32 checkpoint, one that is not known, and a small model; otherwise the checkpoint's type
        where it is fast, else `inference_dtype`.
    """
    if stored not in ("bfloat16", "float16") or parameters < _SMALL:
        return "float32"
    if stored == "float16":  # on a CPU bfloat16 would lose digits, and float16 itself is slow
        return "float16" if device.startswith("cuda") else "float32"
    return inference_dtype(device)


def slow_dtype_note(device: str, dtype: str) -> str | None:
    """One line about a data type that was chosen and is slow on a device; None if it is not."""
    fast = inference_dtype(device)
    slow = dtype == "bfloat16" != fast or (dtype == "float16" and not device.startswith("cuda"))
    if not slow:
        return None
    place = "GPU" if device.startswith("cuda") else "CPU"
    return (
        f"dtype {dtype!r} is slow on this {place}, which has no instructions for it"
        f"{' (several times slower than float32)' * (place == 'CPU')}: leave the option out, or "
        f"choose {fast!r}."
    )
