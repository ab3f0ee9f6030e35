"""Runs mypy over the three packages under the names they install as.

The folders `agents/` and `benchmarks/` install as `zerosearch_agents` and `zerosearch_benchmarks`; mypy does not
follow the import hook of an editable install, so it is given a folder of links with the installed names.

    python .ci/typecheck.py [mypy options]
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"zerosearch_env": "zerosearch_env", "zerosearch_agents": "agents", "zerosearch_benchmarks": "benchmarks"}


def main(options: list[str]) -> int:
    """Returns mypy's exit status."""
    links = ROOT / "build" / "typing"
    links.mkdir(parents=True, exist_ok=True)
    for name, folder in PACKAGES.items():
        link = links / name
        if not link.is_symlink():
            link.symlink_to(ROOT / folder, target_is_directory=True)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--no-error-summary",
        "--num-workers",
        "2",
    ]
    command += [argument for name in PACKAGES for argument in ("-p", name)] + options
    return subprocess.run(command, cwd=links, env={**os.environ, "MYPYPATH": str(links)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
