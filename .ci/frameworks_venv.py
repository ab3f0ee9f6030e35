"""Sets up the environment of one framework, for `make test-trl`, `make test-verifiers` and their like.

    python .ci/frameworks_venv.py verifiers .venv-frameworks

Their requirements exclude each other, so each has an environment of its own, FOLDER/NAME. A second call finds
everything in place. The versions are those of the last result in docs/frameworks/.
"""

from __future__ import annotations

import sys
from pathlib import Path

from own_venv import ROOT, TESTING, Pip, make_venv

FRAMEWORKS = {
    "trl": ["trl==1.16.0"],
    "openenv": ["openenv==0.10.0", "trl==1.16.0", "torch==2.13.0"],
    "verifiers": ["verifiers==0.4.0", "uv>=0.13"],
    "skyrl": ["skyrl-gym==0.4.0"],
    "gem": ["gem-llm==0.1.0"],
    "verl": ["verl==0.9.1"],
    "nemo-gym": ["nemo-gym==0.4.0"],
    "torchrl": ["torchrl==0.14.1", "torch==2.13.0"],
}
"""Name -> what is installed beside this package."""
EXTRAS = {"trl": "train"}
"""Name -> extras of this package that its tests need."""


def main(name: str, folder: Path) -> int:
    """Returns 0 when the environment stands."""
    requirements = FRAMEWORKS[name]

    def install(pip: Pip) -> None:
        package = f"{ROOT}[{EXTRAS[name]}]" if name in EXTRAS else str(ROOT)
        pip("install", "--quiet", *requirements, *TESTING, "--editable", package)

    announcement = f"Installing {', '.join(requirements)} into {folder / name} (once; some minutes) ..."
    make_venv(folder / name, " ".join(requirements), install, announcement)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
