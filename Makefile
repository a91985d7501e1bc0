# `make demo` and `make test` are all that a newcomer needs; both set up what they use.
# Python comes from the system (3.11 or later), libraries from requirements/*.txt, pinned with hashes.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
UV_VERSION := 0.13.9
IMAGE := hauberk.dev/hauberk:0.1.0
ROUNDS ?= 20
CLUSTER ?= lab
export UV_PYTHON_DOWNLOADS := never
export UV_NATIVE_TLS := 1

.DEFAULT_GOAL := help
.PHONY: help demo demo-down test test-fast check unit kube e2e e2e-all chaos chaos-planted lab-deps image lock clean

help: ## Show what can be made
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/\1\t\2/' | expand -t 14

demo: $(VENV)/.done $(if $(filter lab,$(CLUSTER)),lab-deps) ## From nothing to a denied write on a real cluster (CLUSTER=lab or kind)
	@$(PY) -m demo up --cluster $(CLUSTER)

demo-down: $(VENV)/.done ## End the demo's cluster
	@$(PY) -m demo down --cluster $(CLUSTER)

test: test-fast e2e ## Checks, unit, real API server, real kernels; without the longest stories

test-fast: check docs test-deps ## Everything but the lab, in about ten minutes
	$(PY) -m pytest tests/kube tests/unit tests/lab -m "not lab" -n 2 --dist loadfile

check: $(VENV)/.done ## Formatter, linter, type checker
	$(VENV)/bin/ruff format --check --quiet
	$(VENV)/bin/ruff check --quiet
	$(VENV)/bin/basedpyright

unit: $(VENV)/.done test-deps ## Pure code and golden files, with the real parser
	$(PY) -m pytest tests/unit tests/lab -m "not lab"

kube: $(VENV)/.done test-deps ## Against a real kube-apiserver and etcd
	$(PY) -m pytest tests/kube

e2e: $(VENV)/.done lab-deps ## On the lab: real kernels with AppArmor and SELinux
	$(PY) -m tests.e2e

e2e-all: $(VENV)/.done lab-deps ## The same with the longest stories, and once more by the chart: before a release
	$(PY) -m tests.e2e --all
	INSTALL=helm $(PY) -m tests.e2e -v -m "not long"

CORPUS ?=
.PHONY: corpus
corpus: $(VENV)/.done lab-deps ## Other people's profiles against the parser, on the lab (CORPUS=folder)
	@test -n "$(CORPUS)" || { echo "name a folder of AppArmor profiles: make corpus CORPUS=..."; exit 2; }
	@$(PY) -m tests.corpus "$(CORPUS)"

COUNT ?= 1000
.PHONY: bench-lint
bench-lint: $(VENV)/.done ## How much longer `hauberk lint` takes than the parser alone (COUNT=1000 profiles)
	@PATH=$$PATH:/usr/sbin $(PY) -m bench.lint --count $(COUNT)

.PHONY: bench bench-lab
bench: $(VENV)/.done test-deps ## What Hauberk costs a thousand nodes, against floors and goals (half an hour)
	@PATH=$$PATH:/usr/sbin $(PY) -m bench

bench-lab: $(VENV)/.done lab-deps ## How long users wait, and what a node pays, on real kernels
	@$(PY) -m bench.lab

chaos: $(VENV)/.done lab-deps ## Faults on real kernels, judged: ROUNDS=50 [SEED=n] [FAULTS=update,agent]
	@$(PY) -m tests.chaos --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS))

chaos-planted: $(VENV)/.done lab-deps ## Show that chaos finds laws that were broken on purpose
	@$(PY) -m tests.chaos --planted

lab-deps: $(VENV)/.done ## Install what the lab needs (Debian and Ubuntu)
	@$(PY) -m lab deps --install

.PHONY: test-deps
test-deps: lab-deps
	@PATH=$$PATH:/usr/sbin; command -v apparmor_parser >/dev/null && command -v secilc >/dev/null \
	  && command -v checkpolicy >/dev/null || apt-get install -y -qq apparmor secilc checkpolicy \
	  || { echo "install apparmor_parser, secilc and checkpolicy with your distribution's tools"; exit 3; }
	@$(PY) -m lab binaries >/dev/null
	@$(PY) -m lab tools >/dev/null

# mkdocs' theme prints what its authors plan, in colours, at every build
.PHONY: docs reference
docs: $(VENV)/.done ## The site, into build/site; a broken link or a page without a place fails
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict  # with --quiet it would end well, whatever it finds

reference: $(VENV)/.done ## Write the pages on the three kinds anew, after a change of crds/
	$(PY) -m docs.site

image: $(VENV)/.done lab-deps ## Build the image into build/image.tar, without a registry
	$(PY) -m lab build --tag $(IMAGE) --output build/image.tar .

.PHONY: chart
chart: $(VENV)/.done ## Package the Helm chart into build/, without symbolic links
	@$$($(PY) -m lab tools | grep '/helm$$') package deploy/chart --destination build

lock: $(VENV)/.uv ## Pin the libraries anew from pyproject.toml
	$(VENV)/.uv/bin/uv pip compile -q --universal --generate-hashes --python-version 3.11 \
	  pyproject.toml -o requirements/image.txt
	$(VENV)/.uv/bin/uv pip compile -q --universal --generate-hashes --python-version 3.11 \
	  --extra bench --extra cli --extra docs --extra lab --extra test -c requirements/image.txt pyproject.toml -o requirements/dev.txt

# A half-made environment is never used: the marker is written last.
$(VENV)/.done: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed; name one with PYTHON=..."; exit 3; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) --no-print-directory python-venv
	@echo "Python environment: .venv"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PYTHON) -m venv $(VENV)/.uv
	@$(VENV)/.uv/bin/python -m pip install --quiet uv==$(UV_VERSION)
	@$(VENV)/.uv/bin/uv pip sync --quiet --python $(VENV) --require-hashes requirements/dev.txt
	@$(VENV)/.uv/bin/uv pip install --quiet --python $(VENV) --no-deps --editable .
	@mkdir -p $(VENV)/types/hauberk
	@for folder in crds profiles operator daemonset cli; do \
	  ln -sfn "$(CURDIR)/$$folder" $(VENV)/types/hauberk/$$folder; done
	@touch $@

$(VENV)/.uv: $(VENV)/.done

.PHONY: python-venv
python-venv:
	@command -v apt-get >/dev/null \
	  || { echo "the Python module venv is missing; install it with your distribution's tools"; exit 3; }
	apt-get update -qq && apt-get install -y -qq python3-venv

clean: ## Remove what was built here (caches of the lab stay)
	rm -rf build dist *.egg-info $(VENV)
