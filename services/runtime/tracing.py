"""OpenTelemetry, where the standard environment variables ask for it.

A service exports a span per call over OTLP/gRPC when OTEL_EXPORTER_OTLP_ENDPOINT or
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set and OTEL_SDK_DISABLED is not "true". Sampling, batching, headers
and resource attributes follow the SDK's own variables. Otherwise nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import grpc

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

# By OpenTelemetry's conventions these are a server's errors; the others are its caller's.
_SERVER_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


class Span(Protocol):
    """The span of one call."""

    def end(self, code: grpc.StatusCode) -> None:
        """Notes the code that the call ended with."""


class Tracing(Protocol):
    """Makes spans."""

    def span(
        self, service: str, method: str, metadata: Iterable[tuple[str, str | bytes]]
    ) -> AbstractContextManager[Span]:
        """The server span of a call, a child of the `traceparent` in its metadata; current inside."""

    def close(self) -> None:
        """Sends what is not sent yet."""


class NoTracing:
    """Does nothing."""

    @contextmanager
    def span(self, service: str, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[NoTracing]:
        yield self

    def end(self, code: grpc.StatusCode) -> None: ...

    def close(self) -> None: ...


def from_environment(service: str) -> Tracing:
    """Tracing as the environment asks for; `service` is the name where OTEL_SERVICE_NAME is not set."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or not any(os.environ.get(name) for name in _ENDPOINTS):
        return NoTracing()
    return _OpenTelemetry(service)


class _OpenTelemetry:
    def __init__(self, service: str) -> None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        name = os.environ.get("OTEL_SERVICE_NAME") or f"antiphon-{service}"
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("antiphon")

    @contextmanager
    def span(self, service: str, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[Span]:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {key: value for key, value in metadata if isinstance(value, str)}
        with self._tracer.start_as_current_span(
            f"{service}/{method}",
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
            # Exception texts stay in the log, as they do for callers.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield _OpenTelemetrySpan(span)

    def close(self) -> None:
        self._provider.shutdown()


class _OpenTelemetrySpan:
    def __init__(self, span: object) -> None:
        self._span = span

    def end(self, code: grpc.StatusCode) -> None:
        from opentelemetry import trace

        assert isinstance(self._span, trace.Span)
        self._span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code.name in _SERVER_ERRORS:
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, code.name))
