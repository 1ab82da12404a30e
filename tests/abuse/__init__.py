"""Hostile callers against the real stack through Envoy: `python -m tests.abuse`, and in short in the tests."""
