"""The local stack: every service and the real Envoy on loopback, for `make up`, `make demo` and the tests.

Nothing is imported here: the process runner, which forks, must not load gRPC.
"""
