"""Faults under load: two replicas of each service behind the real Envoy, and streams that must not notice."""
