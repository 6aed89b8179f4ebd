# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:

# What make quickstart publishes: a directory or a tar file; empty for a release of well-known scientific packages.
SRC ?=
# Where in the quickstart's repository `make publish` puts it.
BASE ?=
export SRC BASE
# Options for all runs of pytest, as PYTEST_OPTIONS='-k lease -x'.
PYTEST_OPTIONS ?=

VENV := .venv-test
PYTEST := $(VENV)/bin/python -m pytest -r fEs $(PYTEST_OPTIONS)
# Most tests wait for processes and for storage most of the time. Files stay whole, for what their tests share.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile
# Of sites' tests nearly half the time is waiting: a worker more than there are cores to fill it.
SITES := --numprocesses $(shell n=$$(($$(nproc) * 3 / 2)); echo $$((n < 4 ? n : 4))) --dist loadfile
ENVIRONMENT := eval "$$(tools/container-env build)"; export PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
# Root tests rootless podman with a user made for it; anybody else has no other podman anyway.
WITH_ROOTLESS := $(if $(filter 0,$(shell id -u)),tools/with-rootless)
# Suites that take minutes, the most telling first.
EXTENDED := test-site test-roles test-scenarios test-docker test-slow test-shell
PUBLISHER := images/release_manager/cvmfs_publisher
SCENARIOS := $(patsubst molecule/%/molecule.yml,%,$(wildcard molecule/*/molecule.yml))

##@ Try it

.PHONY: quickstart
quickstart: ## From a bare Debian to a published, verified software release (SRC=directory|tar publishes your own)
	@tools/quickstart "$$SRC"

.PHONY: publish
publish: ## Publish SRC (directory or tar) into the quickstart's repository at BASE; CHECK=1 only shows what would change
	@[[ -n $$SRC && -n $$BASE ]] || { echo "Say what to publish, and where: make publish SRC=/your/software BASE=software/yours" >&2; exit 1; }
	@tools/quickstart-playbook publish repository demo.example.org source "$$(realpath -- "$$SRC")" base_dir "$$BASE" \
	  $(if $(CHECK),-- --check --diff)

.PHONY: clean-quickstart
clean-quickstart: ## Remove every container, image, volume, secret and file of the quickstart (KEEP_CACHE=1 spares downloads)
	@tools/clean-quickstart

##@ Work on it

.PHONY: images
images: ## Build the container images: Debian base, one-node Ceph, release manager (REFRESH=1: on today's Debian packages)
	tools/build-images $(if $(REFRESH),--refresh)

.PHONY: packages
packages:
	@tools/install-packages test

.PHONY: venv
venv: packages ## Make the virtual environment of tests and checks, .venv-test
	@tools/virtualenv $(VENV) requirements/test.txt
	@[ -e $(VENV)/bin/cvmfs_server ] || $(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable $(PUBLISHER)

.PHONY: lock
lock: ## Pin all requirements to the latest versions, with hashes (needs uv)
	tools/lock-requirements

##@ Test it

.PHONY: test
test: lint test-unit test-publisher test-images test-integration test-molecule test-sanity ## All checks, and all tests but the slow ones

.PHONY: test-extended
test-extended: ## The slow ones: whole sites and guides, docker, more Molecule scenarios, memory, image with compilers
	status=0; for suite in $(EXTENDED); do $(MAKE) "$$suite" || status=1; done; exit "$$status"

.PHONY: list-extended
list-extended:
	@echo $(EXTENDED)

.PHONY: lint
lint: venv ## shellcheck, ruff, mypy, yamllint, ansible-lint
	git ls-files -z --cached --others --exclude-standard | xargs -0 grep -lIE '^#!.*\<(ba)?sh$$' | xargs shellcheck
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy $(PUBLISHER)/src
	$(VENV)/bin/yamllint --strict .
	@mkdir -p build/link/ansible_collections/cvmfs && ln -sfn "$(CURDIR)" build/link/ansible_collections/cvmfs/publishing
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" ANSIBLE_COLLECTIONS_PATH="$(CURDIR)/build/link" ansible-lint --offline --profile production

.PHONY: test-unit
test-unit: venv ## Unit tests of the collection
	$(PYTEST) $(PARALLEL) tests/unit

.PHONY: test-publisher
test-publisher: venv images ## Tests of the native publisher, on local storage and on Ceph
	$(ENVIRONMENT); tools/with-ceph $(PYTEST) $(PARALLEL) $(PUBLISHER)/tests

.PHONY: test-slow
test-slow: venv images ## That publishing a large release takes little memory (minutes)
	$(ENVIRONMENT); tools/with-ceph $(PYTEST) -m slow $(PUBLISHER)/tests

.PHONY: test-images
test-images: venv images ## Tests of the images and of the tools that build and start them
	$(ENVIRONMENT); $(WITH_ROOTLESS) tools/with-ceph $(PYTEST) -k 'not docker' --ignore tests/images/test_shell.py tests/images

.PHONY: test-shell
test-shell: venv images ## The image with compilers and editors (minutes; a gigabyte)
	tools/build-images shell
	$(ENVIRONMENT); $(PYTEST) tests/images/test_shell.py

.PHONY: test-integration
test-integration: venv images ## Modules and roles on real podman and real Ceph
	$(ENVIRONMENT); $(WITH_ROOTLESS) tools/with-ceph $(PYTEST) $(SITES) -m 'not (extended or roles)' -k 'not docker' tests/integration

.PHONY: test-site
test-site: venv images ## Day-two work, migration, people's command, check mode, and the guides' commands (many minutes)
	$(ENVIRONMENT); $(WITH_ROOTLESS) tools/with-ceph $(PYTEST) $(SITES) -m extended -k 'not docker' tests/integration

.PHONY: test-roles
test-roles: venv images ## Hosts of all roles as they are set up, changed, broken off and taken away (many minutes)
	$(ENVIRONMENT); $(WITH_ROOTLESS) tools/with-ceph $(PYTEST) $(SITES) -m roles -k 'not docker' tests/integration

.PHONY: test-docker
test-docker: venv images ## The tests of images and modules that concern docker (root; uses the machine's docker or starts one)
	$(ENVIRONMENT); tools/with-docker tools/with-ceph $(PYTEST) -k docker tests/images tests/integration

.PHONY: test-interop
test-interop: venv images ## With CernVM-FS's own client and server, where the machine has them (not part of make test; CVMFS_INTEROP_RUNS=300 for that many generated runs each way)
	$(ENVIRONMENT); tools/with-ceph $(PYTEST) tests/interop

.PHONY: test-molecule
test-molecule: venv images ## The Molecule scenario of a whole site
	$(ENVIRONMENT); tools/with-cgroup2 tools/with-ceph tools/test-scenarios default

.PHONY: test-scenarios
test-scenarios: venv images ## All Molecule scenarios but that
	$(ENVIRONMENT); tools/with-cgroup2 tools/with-ceph tools/test-scenarios $(filter-out default,$(SCENARIOS))

.PHONY: test-sanity
test-sanity: venv ## ansible-test sanity
	tools/test-sanity

.PHONY: clean
clean: ## Remove what tests and checks left in the checkout
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: help
help: ## This text
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
