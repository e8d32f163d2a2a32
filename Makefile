# Every target is one verb of run.py, which makes .venv when it is missing or stale.
# More arguments: make test ARGS='tests/core -k config'
PYTHON ?= python3
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-real speedrun check fix bench

help setup demo test test-slow test-real speedrun check fix bench:
	@$(PYTHON) run.py $@ $(ARGS)
