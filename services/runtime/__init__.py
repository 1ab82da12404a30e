"""The process around a model: server, health, interceptors, errors, metrics, configuration, logs, tracing.

Nothing here imports torch.
"""
