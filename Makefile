.PHONY: help docs run airflow vertex-demo test test-core lint types imports setup setup-core setup-airflow airflow-lock setup-function function-lock

# The units, the runners' contract in one process, and a run by tasks of a local Vertex and by `pipelines.run_node`.
CORE = tests/retake tests/test_core.py tests/components tests/pipelines/test_local.py::TestLocal \
  tests/pipelines/test_vertex.py::TestCompiled tests/pipelines/test_vertex.py::TestSubmitted \
  tests/pipelines/test_vertex.py::TestVertex::test_a_first_run_completes_and_is_blessed_and_pushed \
  tests/pipelines/test_run_node.py::test_the_local_runner_takes_all_from_that_runs_cache_and_tells_the_same

help: ## list what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

run: setup ## train, gate and push a model on the embedded sample, then chart what it predicts
	@.venv/bin/python -m pipelines.run
	@.venv/bin/retake results --images "data/sample/hot dog" --model sample=models/sample --output data/sample/results

airflow: setup setup-airflow ## start an Airflow of your own on this machine, with the embedded sample's pipeline in it
	@.venv/bin/python -m pipelines.run --runner airflow --root runs/sample-airflow --models models/sample-airflow
	@.ci/airflow

vertex-demo: setup setup-function ## show on this machine what happens on Vertex AI when records land in a bucket
	@.venv/bin/python -m kubeflow.demo

test: lint types imports setup-core setup-airflow setup-function ## every check and every test
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-core: types setup-core ## what has to pass on the other TFX as well: see RETAKE_PYTHON in the README
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m pytest --numprocesses 2 --dist loadfile $(CORE)

docs: setup ## the docs site, in site/
	@DISABLE_MKDOCS_2_WARNING=true .venv/bin/mkdocs build --strict

lint: setup ## style and formatting
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: setup ## static types
	.venv/bin/mypy

imports: setup ## which package may import which
	.venv/bin/lint-imports --no-logo

setup: ## .venv, from uv.lock; no need to call it, the others do
	@.ci/setup

setup-core: ## .core/venv, the library without TFX, from uv.lock; no need to call it either
	@.ci/setup core

setup-airflow: ## .airflow/venv, from dags/requirements.txt; no need to call it either
	@.ci/setup airflow

airflow-lock: ## renew dags/requirements.txt from dags/requirements.in
	@.ci/setup airflow-lock

setup-function: ## .function/venv, from kubeflow/cloud_function/requirements.txt; no need to call it either
	@.ci/setup function

function-lock: ## renew kubeflow/cloud_function/requirements.txt from requirements.in beside it
	@.ci/setup function-lock
