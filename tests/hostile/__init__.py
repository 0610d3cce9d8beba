"""Hostile files: what each reader of ppose does with files that were made to hurt it.

A module of this package generates the files of one family of formats and lists them in
`READERS`; `harness` runs the readers, test_hostile a few hundred cases of each, and
benchmarks/hostile.py as many as asked for.
"""
