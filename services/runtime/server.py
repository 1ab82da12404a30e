"""The process around one service: start, load, serve, drain.

    server = Server(service, settings)
    await server.start()         # bound; health NOT_SERVING; calls get UNAVAILABLE
    await server.wait_ready()    # loaded; health SERVING
    await server.drain()         # health NOT_SERVING; running streams finish; closed

`run` does this for a whole process and is what a `__main__` calls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from antiphon.v1 import audio_pb2, system_pb2_grpc
from services.runtime import log, tracing
from services.runtime.admission import Admission, Phase
from services.runtime.config import ServiceSettings, socket_path
from services.runtime.interceptors import CallInterceptor
from services.runtime.metrics import METRICS, Exporter, Metrics, start_exporter, version
from services.runtime.system import SYSTEM_SERVICE, SystemServicer

_log = logging.getLogger("antiphon.server")

# For handlers that were cut off to run their `finally` blocks, and for their last statuses to leave.
_CUT_SECONDS = 5.0
_SETTLE_SECONDS = 0.2

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Service(Protocol):
    """What a server serves."""

    name: str
    """Full name of the proto service, "antiphon.v1.GeneratorService"."""

    def load(self) -> None:
        """Loads and warms the model. Called once, in a thread; may block. What it raises ends the process."""

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer. Called before `load`; its methods are called only after."""

    def models(self) -> Sequence[audio_pb2.ModelInfo]:
        """Lists what is loaded, the default first. Called only after `load`."""

    def close(self) -> None:
        """Frees what `load` made. Called once, in a thread, after the last stream; not if `load` failed."""


class Server:
    """Serves one service. One event loop, one start, one drain."""

    def __init__(self, service: Service, settings: ServiceSettings, metrics: Metrics = METRICS) -> None:
        self.port = 0
        """The bound port after `start`; 0 for a Unix socket."""
        self._service = service
        self._settings = settings
        self._metrics = metrics
        self._short_name = service.name.rpartition(".")[2].removesuffix("Service").lower()
        self._admission = Admission(settings.max_concurrent_rpcs, settings.max_concurrent_rpcs_per_client)
        self._health = health.aio.HealthServicer()
        self._exporter: Exporter | None = None
        self._tracing: tracing.Tracing = tracing.NoTracing()
        self._server: grpc.aio.Server | None = None
        self._loading: asyncio.Task[None] | None = None
        self._started = 0.0

    @property
    def metrics_port(self) -> int:
        """The port that metrics are read from; 0 when there is none."""
        return self._exporter.port if self._exporter else 0

    @property
    def loading(self) -> bool:
        """Whether `load` is still at work."""
        return self._loading is not None and not self._loading.done()

    async def start(self) -> None:
        """Binds both ports and starts loading. Raises RuntimeError or OSError when an address is taken."""
        self._started = time.monotonic()
        settings, name = self._settings, self._service.name
        self._tracing = tracing.from_environment(self._short_name)
        self._metrics.set_build(self._short_name)
        interceptor = CallInterceptor(self._admission, self._metrics, self._tracing)
        server = grpc.aio.server(interceptors=(interceptor,), options=_options(settings))
        self._service.register(server)
        system_pb2_grpc.add_SystemServiceServicer_to_server(SystemServicer(self._service.models), server)
        for known in ("", name):
            await self._health.set(known, _NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (name, SYSTEM_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        self.port = _bind(server, settings.listen)
        if settings.metrics_listen:
            self._exporter = start_exporter(settings.metrics_listen, self._metrics.registry)
        await server.start()
        self._server = server
        self._loading = asyncio.create_task(self._load())

    async def wait_ready(self) -> None:
        """Waits until the service is loaded and healthy. Raises what its `load` raised."""
        if self._loading is None:
            raise RuntimeError("the server has not been started")
        await asyncio.shield(self._loading)

    async def drain(self) -> None:
        """Refuses new calls, lets running ones finish within the grace, stops. Raises what `close` raised."""
        if self._server is None:
            return
        server, self._server = self._server, None
        was_serving = self._admission.phase is Phase.SERVING
        if not was_serving:
            self._admission.phase = Phase.DRAINING
        await self._health.enter_graceful_shutdown()
        if was_serving:
            await asyncio.sleep(self._settings.drain_delay_seconds)
            self._admission.phase = Phase.DRAINING
            # A server that stops answers CANCELLED to a call that was on its way. Refused here, it hears UNAVAILABLE.
            await asyncio.sleep(_SETTLE_SECONDS)
        grace = self._settings.drain_grace_seconds
        # Tells connected callers to go elsewhere; returns when the last byte of the last stream has left.
        stopping = asyncio.create_task(server.stop(grace + _CUT_SECONDS))
        idle = await self._admission.wait_idle(grace)
        # Health watchers never end by themselves.
        cut = self._admission.cut()
        if not idle:
            _log.warning("streams cut off", extra={"streams": cut, "grace_seconds": grace})
            await self._admission.wait_idle(_CUT_SECONDS)
        await stopping
        if was_serving:
            await asyncio.to_thread(self._service.close)
        if self._exporter:
            await asyncio.to_thread(self._exporter.close)
        await asyncio.to_thread(self._tracing.close)
        _log.info("stopped", extra={"streams_cut": cut})

    async def _load(self) -> None:
        await _in_daemon_thread(self._service.load)
        if self._admission.phase is not Phase.LOADING:
            await asyncio.to_thread(self._service.close)
            return
        self._admission.phase = Phase.SERVING
        for known in ("", self._service.name):
            await self._health.set(known, _SERVING)
        listen = self._settings.listen
        _log.info(
            "serving",
            extra={
                "service": self._service.name,
                "version": version(),
                "address": listen if not self.port else f"{listen.rpartition(':')[0]}:{self.port}",
                "metrics_port": self.metrics_port,
                "ready_seconds": round(time.monotonic() - self._started, 3),
            },
        )


def run(service: Service, settings: ServiceSettings) -> int:
    """Runs a service until SIGTERM or SIGINT and returns the status to exit with.

    0 after a drain; 1 when an address is taken or the model does not load. A second signal ends at once.
    """
    log.configure(settings.log_level, settings.log_format)
    return asyncio.run(_main(service, settings))


async def _main(service: Service, settings: ServiceSettings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            # The kernel's own action: a second signal ends even a process whose loop is stuck.
            signal.signal(each, signal.SIG_DFL)
        _log.info("draining", extra={"signal": number.name})
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)

    server = Server(service, settings)
    try:
        await server.start()
    except (OSError, RuntimeError):
        _log.exception("could not start", extra={"address": settings.listen})
        return 1
    stopped = asyncio.create_task(stop.wait())
    ready = asyncio.create_task(server.wait_ready())
    await asyncio.wait({stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done() and (error := ready.exception()):
        _log.error("could not load", exc_info=error, extra={"service": service.name})
        await server.drain()
        stopped.cancel()
        return 1
    await stopped
    await server.drain()
    if server.loading:
        # A thread can't be stopped, and the interpreter must not take itself down under native code.
        logging.shutdown()
        os._exit(0)
    return 0


def _bind(server: grpc.aio.Server, listen: str) -> int:
    """Binds the address and returns the port, 0 for a Unix socket."""
    if not listen.startswith("unix:"):
        return int(server.add_insecure_port(listen))
    path = socket_path(listen)
    with socket.socket(socket.AF_UNIX) as probe:
        # gRPC removes a socket that is in its way: right for one that a dead process left, not for a living one's.
        if path.is_socket() and probe.connect_ex(str(path)) == 0:
            raise RuntimeError(f"{path}: another process listens there")
    # Who may write to the file may call: its owner and its group, such as a sidecar, and nobody else.
    mask = os.umask(0o117)
    try:
        server.add_insecure_port(listen)
    finally:
        os.umask(mask)
    return 0


def _in_daemon_thread(function: Callable[[], None]) -> asyncio.Future[None]:
    """Like asyncio.to_thread, in a thread that the end of the process does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def work() -> None:
        error: BaseException | None = None
        try:
            function()
        except Exception as raised:
            error = raised
        except BaseException as raised:
            # A SystemExit would tear the event loop down past every handler.
            error = RuntimeError(f"{type(raised).__name__}: {raised}")
        with suppress(RuntimeError):  # the loop has closed meanwhile
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=work, name="load", daemon=True).start()
    return future


def _options(settings: ServiceSettings) -> list[tuple[str, int]]:
    return [
        # Two servers on one port would share its callers by chance; the second must fail instead.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # A paused stream may say nothing for hours. Pings find callers who vanished without a goodbye,
        # and callers may ping to keep their own side open.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ]
