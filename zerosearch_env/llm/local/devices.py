"""The check of a device's name."""

from __future__ import annotations

from ...errors import ConfigError, require, sentence


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
