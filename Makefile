# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
# Everything goes through .venv, which `setup` makes and keeps in step with requirements.lock.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

# What a lab was started with; `make clean-lab LAB=name` takes another one down.
LAB ?= lab

.PHONY: help setup demo test test-unit test-kernel test-lab test-guests test-molecule test-upstream bench test-vagrant vagrant-box lint build clean-lab clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what is missing: Debian packages, and .venv with pinned Python packages
	@scripts/setup

demo: setup ## Start a lab, build the cluster network on it, verify it, show the result
	@$(BIN)/python scripts/demo

# Files side by side, each in one process; the long ones first.
test: setup ## Run lint and the tests of units, kernel and labs, but those of test-guests and test-molecule
	@$(PYTEST) --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder -m "not guest and not molecule" \
		tests/lab tests/kernel tests/unit tests/lint

test-guests: setup ## Run tests in kernels that have what this one lacks (IPVS, WireGuard); not part of `make test`
	@$(PYTEST) --numprocesses=auto --maxprocesses=4 --dist=load -m guest tests/kernel

test-molecule: setup ## Run the molecule scenarios on lab nodes (not part of `make test`)
	@$(PYTEST) --numprocesses=auto --maxprocesses=2 --dist=load -m molecule tests/lab

test-unit: setup ## Run the tests that need neither root nor a lab
	@$(PYTEST) tests/unit

test-kernel: setup ## Run the tests against the kernel, in network namespaces of their own
	@$(PYTEST) tests/kernel

test-lab: setup ## Run the tests that start lab nodes
	@$(PYTEST) tests/lab

test-upstream: setup ## Run the tests against real flanneld, etcd and kube-proxy, built with Go (not part of `make test`)
	@$(BIN)/python -m tests.upstream.builds
	@$(PYTEST) tests/upstream

bench: setup ## Measure datapath and services against other tools (as root); renews docs/reference/benchmarks*.md
	@PYTHONPATH=.:collections $(BIN)/python -m tests.bench.datapath
	@PYTHONPATH=.:collections $(BIN)/python -m tests.bench.page
	@PYTHONPATH=.:collections $(BIN)/python -m tests.bench.services
	@PYTHONPATH=.:collections $(BIN)/python -m tests.bench.services_page

test-vagrant: setup ## Run the molecule scenario on Vagrant VMs (not part of `make test`)
	@scripts/test-vagrant

vagrant-box: setup ## Build the box that `make test-vagrant` starts
	@scripts/vagrant-box

lint: setup ## Run ruff, mypy, yamllint and ansible-lint
	@$(PYTEST) tests/lint

build: setup ## Build the collection's archive into build/
	@$(BIN)/ansible-galaxy collection build --force --output-path build

clean-lab: ## Take the lab down and remove what it left
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m lab down --name $(LAB); fi

clean: ## Remove what was built in the checkout
	@rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .ansible
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
