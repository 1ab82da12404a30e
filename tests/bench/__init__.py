"""Measurements, by hand or by `make bench`: `python -m tests.bench generator --help`."""
