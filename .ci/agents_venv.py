"""Sets up one environment for each agent framework in examples/tool_agents, for `make test-agents`.

    python .ci/agents_venv.py .venv-agents

230 to 500 MB each; a second call finds everything in place. The versions are those of the last result in
docs/third-party-agents.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

from own_venv import ROOT, TESTING, Pip, make_venv

FRAMEWORKS = {
    "smolagents": ["smolagents[openai]==1.26.0"],
    "dspy": ["dspy==3.4.1"],
    "openai_agents": ["openai-agents==0.24.0"],
    "langgraph": ["langchain==1.5.2", "langchain-openai==1.7.4", "langgraph==1.2.24"],
    "llamaindex": ["llama-index-core==0.14.25", "llama-index-llms-openai-like==0.8.1"],
}


def main(folder: Path) -> int:
    """Returns 0 when the environments stand."""
    for name, requirements in FRAMEWORKS.items():

        def install(pip: Pip, requirements: list[str] = requirements) -> None:
            pip("install", "--quiet", *requirements, *TESTING, "--editable", str(ROOT))

        announcement = f"Installing {', '.join(requirements)} into {folder / name} (once; a minute or two) ..."
        make_venv(folder / name, " ".join(requirements), install, announcement)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
