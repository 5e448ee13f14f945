"""Airflow on this machine: for `make airflow`, for the benchmarks and for the tests."""
