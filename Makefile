# Two commands do all the set-up: `make demo` and `make test`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
# Compiling torch and transformers anew at each start of a stage costs more than all else in it.
export PYTHONDONTWRITEBYTECODE :=

UV_VERSION := 0.13.9
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tandem
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
BIN := .venv/bin
STORE ?= demo/store
SERVE = $(CACHE)/serve-$(shell sha256sum locks/serve.txt | cut -c1-12)
# Installed and compiled once for all clones: that is ten seconds of a demo.
PACKAGES = $(CACHE)/demo-$(shell sha256sum locks/demo.txt | cut -c1-12)

.PHONY: help demo test e2e kills lint bench cluster-up cluster-down images serve locks clean

help:  ## Show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

demo: .venv/demo.stamp  ## Train and evaluate a tiny InternVL on real images, on this machine
	$(BIN)/tandem demo prepare demo
	$(BIN)/tandem run jobs/demo.yaml --store $(STORE) --at-once 2 --output json > demo/run.json
	$(BIN)/tandem demo report jobs/demo.yaml --store $(STORE)

test: .venv/dev.stamp lint  ## Run every test, as CI does
	k8s/local/build-tool --all > /dev/null
	$(MAKE) -s serve > /dev/null
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 15 $(PYTEST_ARGS)

e2e: .venv/dev.stamp  ## Run the demo on a real Kubernetes, as docs/on-kubernetes.md has it (part of `make test`; as root)
	k8s/local/build-tool --all > /dev/null
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/e2e/on_kubernetes $(PYTEST_ARGS)

kills: .venv/dev.stamp  ## Kill the demo's Run 20 times, on a folder and on S3, and stop its server: 40 minutes (KILLS=20 SEED=...)
	k8s/local/build-tool versitygw > /dev/null
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/e2e/many_kills.py -s --timeout 7200 $(PYTEST_ARGS)

lint: .venv/dev.stamp  ## Check style, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev.stamp  ## Measure speed as ratios; figures are kept in docs/benchmarks.md (bench/gpu_*.py need a GPU)
	k8s/local/build-tool versitygw > /dev/null
	for name in generation logits packing s3 preflight judge uploads; do
		echo "$$name"
		OMP_NUM_THREADS=1 $(BIN)/python -m bench.$$name
	done

cluster-up: .venv/dev.stamp  ## Bring up a real Kubernetes on this machine (as root; built once, in 12 to 24 minutes)
	$(BIN)/python -m k8s.local up

cluster-down: .venv/dev.stamp  ## Take it down without a trace
	$(BIN)/python -m k8s.local down

locks: $(UV)  ## Resolve the locked dependencies anew
	compile() { $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header "$$@"; }
	ours() { compile pyproject.toml "$$@"; }
	ours --extra dev -o locks/dev.txt
	ours -c locks/dev.txt -o locks/base.txt
	for extra in model train eval demo; do ours --extra $$extra -c locks/dev.txt -o locks/$$extra.txt; done
	compile --group serve -c locks/dev.txt -o locks/serve.txt

images:  ## Build the images (docker, podman or buildah; images/README.md)
	images/build

serve: | $(UV)  ## Install transformers serve into an environment of its own (a real server for tests), and say where
	exec 9> $(SERVE).lock
	flock 9
	if [ ! -e $(SERVE)/complete ]; then
		$(UV) venv -q --clear --python '>=3.11' $(SERVE)
		$(UV) pip sync -q --python $(SERVE)/bin/python --require-hashes locks/serve.txt
		touch $(SERVE)/complete
	fi
	echo $(SERVE)

clean:  ## Remove what the other targets made here
	rm -rf .venv demo tandem-store dist

$(UV):
	python3 -m venv $(CACHE)/uv-$(UV_VERSION)
	$(CACHE)/uv-$(UV_VERSION)/bin/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)

.venv/bin/python: | $(UV)
	$(UV) venv -q --python '>=3.11' .venv

$(PACKAGES)/complete: | $(UV) .venv/bin/python
	exec 9> $(PACKAGES).lock
	flock 9
	if [ ! -e $@ ]; then
		rm -rf $(PACKAGES)
		$(UV) pip sync -q --target $(PACKAGES) --require-hashes locks/demo.txt
		touch $@
	fi

.venv/demo.stamp: pyproject.toml $(if $(wildcard .venv/dev.stamp),,$(PACKAGES)/complete) | $(UV) .venv/bin/python
	if [ ! -e .venv/dev.stamp ]; then echo $(PACKAGES) > $$(echo .venv/lib/python*/site-packages)/demo.pth; fi
	$(UV) pip install -q --no-deps -e .
	touch $@

.venv/dev.stamp: locks/dev.txt pyproject.toml | $(UV) .venv/bin/python
	rm -f .venv/lib/python*/site-packages/demo.pth
	$(UV) pip sync -q --require-hashes locks/dev.txt
	$(UV) pip install -q --no-deps -e .
	touch $@
