"""Proof of k8s/ without a cluster: `make k8s-check`."""
