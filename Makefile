# Everything runs in .venv, which is set up on first use and again only when what it is made from has changed.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready-$(shell cat pyproject.toml constraints.txt 2>/dev/null | sha256sum | cut -c1-16)
DEPLOY_READY := .venv-deploy/.ready-$(shell cat deploy/requirements.txt 2>/dev/null | sha256sum | cut -c1-16)

.PHONY: demo styles test check check-deploy audit bench format setup clean

demo: setup
	$(BIN)/laur generate "red heart, fluent 3d" --seed 7 --out out/demo.png

# a process for each core, each with one thread; tests move between them, as some take a second and some a minute
test: setup
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright

# the deployment files' own tools need other versions than we do: they have an environment of their own
check-deploy: $(DEPLOY_READY)
	.venv-deploy/bin/python scripts/check_deploy.py

$(DEPLOY_READY):
	test -x .venv-deploy/bin/python || $(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/python -m pip install -q --disable-pip-version-check -r deploy/requirements.txt || \
	  { rm -rf .venv-deploy; exit 1; }
	rm -f .venv-deploy/.ready-*
	touch $@

# known vulnerabilities of what constraints.txt pins; AUDIT=--if-reachable where there may be no network
audit: setup
	$(BIN)/python scripts/audit.py $(AUDIT)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -c 'import openvino' 2>/dev/null || $(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	for name in generate unet_step cold_start sd15_size; do $(BIN)/python benchmarks/$$name.py || exit 1; done

setup: $(READY)

$(READY):
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	rm -f .venv/.ready-*
	touch $@

# the styles of mini, of which only those that are not up to date are trained; PACK: pictures, as `laur data` takes them;
# STYLES: only these
styles: setup
	$(BIN)/python scripts/make_styles.py --pack $(PACK) $(STYLES)

clean:
	rm -rf .venv .venv-deploy out dist
