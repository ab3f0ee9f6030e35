#!/bin/sh
# Every check that needs a GPU, in one command: sh benchmarks/gpu.sh [CHECK ...]
#
# It takes the Python that is there with its torch and transformers, and adds what is missing of the rest from a folder
# of wheels where the machine has no network (WHEELS=FOLDER), else from PyPI, without touching torch. The records are
# benchmarks/results/gpu-*.json; RESULTS=FOLDER puts them elsewhere. Exit status 1: a check failed, or there is no GPU.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
needed="gymnasium farama-notifications cloudpickle bm25s rich markdown-it-py mdurl pygments tyro docstring-parser typeguard shtab tomli-w"
missing=
for name in $needed; do
    "$python" -c "import importlib.metadata as m, sys; m.distribution(sys.argv[1])" "$name" 2>/dev/null || missing="$missing $name"
done
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086
    if [ -n "${WHEELS:-}" ]; then
        "$python" -m pip install -q --no-index --find-links "$WHEELS" --no-deps --target "$site" $missing
    else
        "$python" -m pip install -q --no-deps --target "$site" $missing
    fi
fi
ln -s "$PWD/zerosearch_env" "$site/zerosearch_env"
ln -s "$PWD/agents" "$site/zerosearch_agents"
ln -s "$PWD/benchmarks" "$site/zerosearch_benchmarks"
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m zerosearch_env.cli bench gpu --output "${RESULTS:-benchmarks/results}" "$@"
