.PHONY: help run test lint types imports setup

help: ## list what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

run: setup ## train, gate and push a model on the embedded sample, then chart what it predicts
	@.venv/bin/python -m pipelines.run
	@.venv/bin/retake results --images "data/sample/hot dog" --model sample=models/sample --output data/sample/results

test: lint types imports ## every check and every test
	.venv/bin/python -m pytest

lint: setup ## style and formatting
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: setup ## static types
	.venv/bin/mypy

imports: setup ## which package may import which
	.venv/bin/lint-imports --no-logo

setup: ## .venv, from uv.lock; no need to call it, the others do
	@.ci/setup
