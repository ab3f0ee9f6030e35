#!/bin/sh
# Every check that needs a GPU, in one command: sh benchmarks/gpu.sh [CHECK ...]
#
# Uses the machine's Python with its torch and transformers, and installs other missing packages from PyPI without
# changing torch. Without a network, set WHEELS=FOLDER (absolute): all wheels in it are used. It must hold the packages
# of the list below that the machine lacks, and for the checks "peer" (trl, accelerate, datasets and their dependencies)
# and "vllm" their packages; otherwise these two are skipped. Records are written to benchmarks/results/gpu-*.json, or to
# RESULTS=FOLDER. Exit status 1: a check failed, or there is no GPU.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
needed="gymnasium farama-notifications cloudpickle bm25s rich markdown-it-py mdurl pygments tyro docstring-parser typeguard shtab tomli-w"
if [ -n "${WHEELS:-}" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
else
    missing=
    for name in $needed; do
        "$python" -c "import importlib.metadata as m, sys; m.distribution(sys.argv[1])" "$name" 2>/dev/null || missing="$missing $name"
    done
    # shellcheck disable=SC2086
    [ -z "$missing" ] || "$python" -m pip install -q --no-deps --target "$site" $missing
fi
ln -s "$PWD/zerosearch_env" "$site/zerosearch_env"
ln -s "$PWD/agents" "$site/zerosearch_agents"
ln -s "$PWD/benchmarks" "$site/zerosearch_benchmarks"
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m zerosearch_env.cli bench gpu --output "${RESULTS:-benchmarks/results}" "$@"
