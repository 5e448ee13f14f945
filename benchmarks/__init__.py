"""Benchmarks: ratios within one run, as absolute times say little about another machine."""
