"""All metrics of the services, and the port they are read from.

`METRICS` is the instance that the services use; a test makes its own with a fresh registry. Labels are
bounded: the names of methods and loaded models, never a prompt or an id.
"""

from __future__ import annotations

import threading
from importlib import metadata
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    start_http_server,
)

from services.runtime.config import split_address

# One `_created` series for each other series would double what Prometheus stores and tell nobody anything.
disable_created_metrics()  # type: ignore[no-untyped-call]

# A unary ListModels takes a millisecond, a streamed five-minute piece may take as long as it plays.
CALL_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# A player notices 20 ms and leaves after 10 s.
FIRST_AUDIO_BUCKETS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)
# Real time is 20 ms a step at 50 frames a second: fine steps around it.
STEP_BUCKETS = (
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.0125,
    0.015,
    0.02,
    0.025,
    0.03,
    0.04,
    0.06,
    0.1,
    0.25,
    1,
)

_METHOD = ("grpc_type", "grpc_service", "grpc_method")
_MODEL = ("model",)


class Metrics:
    """The metrics, registered in one registry. Times are in seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        # The names and labels of the go-grpc ecosystem's middleware, so that its dashboards fit.
        self.started = Counter("grpc_server_started_total", "Calls begun.", _METHOD, registry=registry)
        self.handled = Counter("grpc_server_handled_total", "Calls ended.", (*_METHOD, "grpc_code"), registry=registry)
        self.handling = Histogram(
            "grpc_server_handling_seconds",
            "From the arrival of a call to its end.",
            _METHOD,
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self.first_audio = Histogram(
            "antiphon_first_audio_seconds",
            "From the arrival of a request to its first audio.",
            _MODEL,
            buckets=FIRST_AUDIO_BUCKETS,
            registry=registry,
        )
        self.step_duration = Histogram(
            "antiphon_step_duration_seconds",
            "One step of the engine for all live streams.",
            _MODEL,
            buckets=STEP_BUCKETS,
            registry=registry,
        )
        self.audio_generated = Counter(
            "antiphon_audio_generated_seconds_total", "Seconds of audio made.", _MODEL, registry=registry
        )
        self.requests_waiting = Gauge(
            "antiphon_requests_waiting", "Requests that wait for a slot.", _MODEL, registry=registry
        )
        self.streams_parked = Gauge(
            "antiphon_streams_parked",
            "Streams without a slot while their listeners wait.",
            _MODEL,
            registry=registry,
        )
        self.model_resident = Gauge(
            "antiphon_model_resident", "1 while the model is in memory.", _MODEL, registry=registry
        )
        self.slots_active = Gauge("antiphon_slots_active", "Slots that hold a stream.", _MODEL, registry=registry)
        self.slots = Gauge("antiphon_slots", "Slots there are.", _MODEL, registry=registry)
        self.build = Info("antiphon_build", "What runs.", registry=registry)

    def set_build(self, service: str) -> None:
        """Fills antiphon_build_info with the short name of the service and the version."""
        self.build.info({"service": service, "version": version()})


def version() -> str:
    """The version of the installed package; "unknown" where a service runs from a bare tree."""
    try:
        return metadata.version("antiphon")
    except metadata.PackageNotFoundError:
        return "unknown"


class Exporter:
    """A running exporter. `port` is the one it listens on."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread
        self.port = server.server_port

    def close(self) -> None:
        """Stops listening and waits for the thread to end."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def start_exporter(listen: str, registry: CollectorRegistry = REGISTRY) -> Exporter:
    """Serves `registry` at "host:port" (port 0: any free one). Raises OSError when the port is taken."""
    host, port = split_address(listen)
    server, thread = start_http_server(port, host, registry)
    return Exporter(server, thread)


METRICS = Metrics(REGISTRY)
