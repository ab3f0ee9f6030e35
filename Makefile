# Every target sets up what it needs on a fresh machine: only Python >= 3.11 and make have to be there.
#   make quickstart   train a small search agent and measure it; 4 minutes on 2 cores of an AMD EPYC, longer on slower ones
#   make test         the test suite                  make test ARGS="-k noise -x"
#   make test-fast    the tests that are not marked slow
#   make test-pythons the suite on every Python from 3.11 that is installed, each in an environment of its own
#   make coverage     the test suite, with the lines that no test reaches
#   make check        what CI runs: linters, type checker, tests
#   make test-servers the simulation LLM on `transformers serve`, killed and restarted; about two minutes
#   make test-vllm    the same on vLLM's CPU build, in an environment of its own (.venv-vllm, 2.5 GB); no GPU
#   make test-agents  the examples of agent frameworks, each in an environment of its own (.venv-agents, 1.6 GB)
#   make test-trl     the adapter of a framework in an environment of its own (.venv-frameworks); also test-openenv,
#                     test-verifiers, test-skyrl, test-gem, test-verl, test-nemo-gym, test-torchrl
#   make test-llm     two real language models play 20 questions each way; downloads 330 MB once, half an hour on two cores
#   make real         SmolLM2 learns to search over real text; hours on two cores, continues where it stopped
#   make format       let the formatter and the linter rewrite the code
#   make clean        remove build products and caches (runs/ stays);  make distclean also removes .venv

VENV ?= .venv
VLLM_VENV ?= .venv-vllm
AGENTS_VENV ?= .venv-agents
FRAMEWORKS_VENV ?= .venv-frameworks
FRAMEWORKS := trl openenv verifiers skyrl gem verl nemo-gym torchrl
LLMS ?= .llms
# Questions and passages of `make real`; made from the hub's 2WikiMultihopQA if the folder does not exist.
WIKIQ ?= $(or $(ZEROSEARCH_SHARED_DATA),.wikiq)
BIN := $(VENV)/bin
ARGS ?=
LINKED := $(VENV)/.linked-$(shell find zerosearch_env agents benchmarks zerosearch_verifiers -type f -not -name '*.pyc' | sort | cksum | cut -d' ' -f1)

# Offline and quiet. PASSIVE: waiting OpenMP threads sleep instead of spinning, on shared cores an eightfold gain.
export OMP_WAIT_POLICY ?= PASSIVE
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Compiled modules are kept: else every process of a test compiles the packages again.
unexport PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-fast test-pythons coverage test-servers test-vllm test-agents test-llm $(FRAMEWORKS:%=test-%) real lint check format clean distclean setup

help:
	@sed -n '2,16s/^#   *//p' Makefile

quickstart: $(VENV)/.ready-train $(LINKED)
	@$(BIN)/zerosearch quickstart $(ARGS)

# Three workers on two cores, with one thread each: some tests wait for processes and servers.
test: $(VENV)/.ready-dev $(LINKED)
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist worksteal $(ARGS)

test-fast:
	@$(MAKE) --no-print-directory test ARGS='-m "not slow" $(ARGS)'

coverage: $(VENV)/.ready-dev $(LINKED)
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --cov=zerosearch_env --cov=zerosearch_agents \
		--cov=zerosearch_benchmarks --cov-report=term-missing:skip-covered $(ARGS)

test-pythons:
	@for python in $$(sh .ci/find-python --all); do \
		name=.venv-$$(basename $$python); \
		echo "== $$python"; $(MAKE) --no-print-directory test PYTHON=$$python VENV=$$name || exit 1; \
	done

test-servers: $(VENV)/.ready-servers $(LINKED)
	@$(BIN)/python -m pytest -q -m servers tests/servers/test_transformers_serve.py $(ARGS)

test-llm: $(VENV)/.ready-servers $(LINKED)
	@$(BIN)/python -m zerosearch_benchmarks.models $(LLMS)
	@ZEROSEARCH_LLMS=$(LLMS) $(BIN)/python -m pytest -q -s -m servers tests/servers/test_llm.py $(ARGS)

test-vllm:
	@python=$$(sh .ci/find-python) && "$$python" .ci/vllm_venv.py $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pytest -q -m servers tests/servers/test_vllm.py $(ARGS)

test-agents:
	@python=$$(sh .ci/find-python) && "$$python" .ci/agents_venv.py $(AGENTS_VENV)
	@for folder in $(AGENTS_VENV)/*/; do \
		$${folder}bin/python -m pytest -q -rP -m servers tests/servers/test_frameworks.py $(ARGS) || exit 1; \
	done

$(FRAMEWORKS:%=test-%): test-%:
	@python=$$(sh .ci/find-python) && "$$python" .ci/frameworks_venv.py $* $(FRAMEWORKS_VENV)
	@$(FRAMEWORKS_VENV)/$*/bin/python -m pytest -q -rP -m "servers or not servers" \
		$(wildcard tests/integrations/test_$(subst -,_,$*)*.py) $(ARGS)

real: $(VENV)/.ready-servers $(LINKED)
	@$(BIN)/python -m zerosearch_benchmarks.models $(LLMS) --models smollm2
	@test -d $(WIKIQ) || HF_HUB_OFFLINE=0 $(BIN)/python -m zerosearch_benchmarks.learning.wiki_questions $(WIKIQ)
	@$(BIN)/zerosearch bench real-llm --model $(LLMS)/smollm2-135m-instruct --data $(WIKIQ) $(ARGS)

lint: $(VENV)/.ready-dev $(LINKED)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "ruff format would change files: run 'make format'" >&2; exit 1; }
	@$(BIN)/codespell
	@$(BIN)/mypy -p zerosearch_env -p zerosearch_agents -p zerosearch_benchmarks -p zerosearch_verifiers --no-error-summary --num-workers 2

check: lint test

format: $(VENV)/.ready-dev $(LINKED)
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format --quiet
	@$(BIN)/ruff check --quiet

setup: $(VENV)/.ready-dev $(LINKED)

clean:
	@rm -rf $(VENV)/.linked-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	@find zerosearch_env agents benchmarks zerosearch_verifiers tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV) $(VLLM_VENV) $(AGENTS_VENV) $(FRAMEWORKS_VENV)

# The stamps make a second call instant; editing pyproject.toml or constraints.txt installs again.
# `strict` installs a tree of links under the packages' real names, so that type checkers see them. Files made later are
# not in it: where the list of files has changed, the tree is made again (.linked-*, seconds, no dependencies).
$(VENV)/.ready-train $(VENV)/.ready-dev $(VENV)/.ready-servers: $(VENV)/.ready-%: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing zerosearch-env[$*] into $(VENV) (once; a minute or two, longer on a slow network) ..."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --config-settings editable_mode=strict --editable ".[$*]"
	@rm -f $(VENV)/.linked-* && touch $@ $(LINKED)

$(LINKED): | $(BIN)/pip
	@rm -rf $(VENV)/.linked-* build
	@$(BIN)/python -m pip install --quiet --no-deps --config-settings editable_mode=strict --editable .
	@touch $@

$(BIN)/pip:
	@python=$$(sh .ci/find-python) && echo "Creating $(VENV) with $$python ..." && "$$python" -m venv --clear $(VENV)
