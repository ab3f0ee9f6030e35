"""Sets up the environment of one framework, for `make test-trl`, `make test-verifiers` and their like.

    python .ci/frameworks_venv.py verifiers .venv-frameworks

Their requirements exclude each other, so each has an environment of its own, FOLDER/NAME. A second call finds
everything in place. The versions are those of the last result in docs/frameworks/.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from own_venv import ROOT, TESTING, Pip, make_venv

FRAMEWORKS = {
    "trl": ["trl==1.16.0", "torch==2.13.0"],
    "openenv": ["openenv==0.10.0", "trl==1.16.0", "torch==2.13.0"],
    "verifiers": ["verifiers==0.4.0", "uv>=0.13"],
    "skyrl": ["skyrl-gym==0.4.0"],
    "gem": ["gem-llm==0.1.0"],
    "verl": ["verl==0.9.1", "torch==2.13.0", "pillow", "uvicorn", "fastapi", "pyzmq", "msgspec", "cachetools"],
    "nemo-gym": ["nemo-gym==0.4.0"],
    "torchrl": ["torchrl==0.14.1", "torch==2.13.0"],
}
"""Name -> what is installed beside this package."""
EXTRAS = {"trl": "train"}
"""Name -> extras of this package that its tests need."""
PYTHONS = {"gem": ((3, 11), (3, 12, 0)), "nemo-gym": ((3, 12), (3, 14))}
"""Name -> oldest and newest Python, for those that do not take every one from 3.11."""
VERSION = "import sys; print(*sys.version_info[:3])"


def find_python(name: str) -> str | None:
    """This Python if the framework takes it, else the oldest installed one that it takes; None if there is none."""
    oldest, newest = PYTHONS.get(name, ((3, 11), (4,)))
    finder = ["sh", str(ROOT / ".ci" / "find-python"), "--all"]
    installed = subprocess.run(finder, check=True, capture_output=True, text=True).stdout.split()
    for python in (sys.executable, *installed):
        version = subprocess.run([python, "-c", VERSION], check=True, capture_output=True, text=True).stdout
        if oldest <= tuple(map(int, version.split())) <= newest:
            return python
    return None


def main(name: str, folder: Path) -> int:
    """Returns 0 when the environment is ready, 1 if it needs a Python that is not installed."""
    python = find_python(name)
    if python is None:
        wanted = "python" + ".".join(map(str, PYTHONS[name][0]))
        print(
            f"error: {name} needs {wanted}, which was not found. Install it, for example with `apt install {wanted} "
            f"{wanted}-venv` or `pyenv install {wanted[6:]}`, or name one: make test-{name} PYTHON=/path/to/{wanted}",
            file=sys.stderr,
        )
        return 1
    if python != sys.executable:
        return subprocess.run([python, __file__, name, str(folder)], check=False).returncode
    requirements = FRAMEWORKS[name]

    def install(pip: Pip) -> None:
        package = f"{ROOT}[{EXTRAS[name]}]" if name in EXTRAS else str(ROOT)
        pip("install", "--quiet", *requirements, *TESTING, "--editable", package)

    announcement = f"Installing {', '.join(requirements)} into {folder / name} (once; some minutes) ..."
    make_venv(folder / name, " ".join(requirements), install, announcement)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
