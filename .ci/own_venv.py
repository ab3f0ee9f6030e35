"""Environments of their own, for tests whose libraries do not fit into one with the others."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTING = ["pytest>=8.3", "hypothesis>=6.100", "pytest-timeout>=2.3"]
Pip = Callable[..., None]


def make_venv(folder: Path, wanted: str, install: Callable[[Pip], None], announcement: str) -> None:
    """Make an environment, unless it is there with what is wanted.

    Args:
        folder: where.
        wanted: describes what is installed; together with pyproject.toml it decides whether it is installed again.
        install: installs it; gets a function that runs pip in the environment with these arguments.
        announcement: printed before that.
    """
    stamp = folder / ".ready"
    wanted = f"{wanted} {(ROOT / 'pyproject.toml').read_text('utf-8')}"
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        return
    print(announcement, flush=True)
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)

    def pip(*arguments: str) -> None:
        subprocess.run([str(folder / "bin" / "python"), "-m", "pip", *arguments], check=True)

    install(pip)
    stamp.write_text(wanted, "utf-8")
