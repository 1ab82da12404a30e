"""Two replicas of each service and an Envoy, each a process that can be killed, drained and started anew."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.stack import edge
from services.stack.ports import HOST, SERVICES, Ports
from services.stack.stack import CHANNEL_OPTIONS, ROOT

START_SECONDS = 600.0
DRAIN_SECONDS = 240.0


@dataclass
class Replica:
    """One process of a service. It comes back at the same address."""

    service: str
    port: int
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    asked: set[int] = field(default_factory=set)
    """Pids whose end was asked for."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        own = {"ANTIPHON_LISTEN": f"{HOST}:{self.port}", "ANTIPHON_METRICS_LISTEN": "", "ANTIPHON_THREADS": "1"}
        environment = {**os.environ, **self.environment, **own}
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", f"services.{self.service}"]
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.started.append(self.process)

    def wait_ready(self) -> None:
        """Waits until it serves. Raises TimeoutError."""
        deadline = time.monotonic() + START_SECONDS
        with grpc.insecure_channel(f"{HOST}:{self.port}", CHANNEL_OPTIONS) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < deadline:
                with suppress(grpc.RpcError):
                    request = health_pb2.HealthCheckRequest(service=SERVICES[self.service])
                    if health.Check(request, timeout=5).status == health_pb2.HealthCheckResponse.SERVING:
                        return
                time.sleep(0.2)
        raise TimeoutError(f"{self.service} on port {self.port} does not serve; see {self.log}")

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        assert self.process is not None
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.asked.add(self.process.pid)
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """SIGTERM, and waits for the end of the drain."""
        assert self.process is not None
        self.asked.add(self.process.pid)
        self.process.terminate()
        self.process.wait(timeout=DRAIN_SECONDS)

    @property
    def deaths(self) -> int:
        """How many of its processes have ended though nobody asked them to."""
        return sum(one.poll() is not None and one.pid not in self.asked for one in self.started)


class Envoy:
    """The edge. A new one may be started before the old one has ended: the kernel gives both the port's connections."""

    def __init__(self, folder: Path, clusters: Mapping[str, Sequence[edge.Address]]) -> None:
        self._folder = folder
        self._clusters = clusters
        self.port = Ports.free().edge
        self.address = f"{HOST}:{self.port}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._admins: list[int] = []
        self.asked: set[int] = set()

    def start(self) -> None:
        admin = Ports.free().admin
        config = self._folder / f"envoy{len(self.processes)}.yaml"
        config.write_text(
            edge.render(edge.configuration(), edge=(HOST, self.port), admin=(HOST, admin), clusters=self._clusters)
        )
        with (self._folder / "envoy.log").open("ab") as log:
            # Else a draining Envoy takes new connections for ten minutes, and under load never has none.
            command = [*edge.command(config), "--drain-time-s", "3"]
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        self._admins.append(admin)
        self._wait(lambda: b"LIVE" in self._admin("GET", "/ready"))

    def drain(self) -> None:
        """Starts a new one, lets the old one finish what it has, and ends it."""
        old, admin = self.processes[-1], self._admins[-1]
        self.start()
        self._admin("POST", "/drain_listeners?graceful", admin)
        self._wait(lambda: self._active(admin) == 0, DRAIN_SECONDS)
        self.asked.add(old.pid)
        old.terminate()
        old.wait(timeout=30)

    def kill(self) -> None:
        """SIGKILL, and a new one at once."""
        old = self.processes[-1]
        self.asked.add(old.pid)
        old.kill()
        old.wait()
        self.start()

    @property
    def megabytes(self) -> float:
        return float(psutil.Process(self.processes[-1].pid).memory_info().rss) / 2**20

    @property
    def deaths(self) -> int:
        return sum(one.poll() is not None and one.pid not in self.asked for one in self.processes)

    def stop(self) -> None:
        for one in self.processes:
            if one.poll() is None:
                one.kill()
                one.wait()

    def _active(self, admin: int) -> int:
        lines = self._admin("GET", "/stats?filter=http.edge.downstream_rq_active", admin).decode().splitlines()
        return int(next(line for line in lines if "rq_active" in line).rpartition(" ")[2])

    def _admin(self, method: str, path: str, admin: int | None = None) -> bytes:
        url = f"http://{HOST}:{admin or self._admins[-1]}{path}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, method=method), timeout=10) as reply:
            body: bytes = reply.read()
        return body

    def _wait(self, condition: object, seconds: float = 60.0) -> None:
        assert callable(condition)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(OSError):
                if condition():
                    return
            time.sleep(0.1)
        raise TimeoutError(f"Envoy: not in {seconds:.0f} s")


class Fleet:
    """All of it. As a context manager: starts, waits until all are well through Envoy, stops.

    `services` are those that have replicas; Envoy has clusters for the others too, with no host that answers.
    """

    def __init__(self, folder: Path, services: Sequence[str] = tuple(SERVICES)) -> None:
        first, second = Ports.free(), Ports.free()
        # A short grace for the generator, so that streams are cut and have to go on elsewhere; codec streams can't.
        own = {
            "generator": {"ANTIPHON_DRAIN_GRACE_SECONDS": "1", "ANTIPHON_SLOTS": "16", "ANTIPHON_QUEUE_LIMIT": "8"},
            "codec": {"ANTIPHON_DRAIN_GRACE_SECONDS": "60"},
            "analyzer": {"ANTIPHON_DRAIN_GRACE_SECONDS": "60"},
        }
        self.replicas = [
            Replica(name, ports.services[name], own[name], folder / f"{name}{number}.log")
            for number, ports in enumerate((first, second))
            for name in services
        ]
        self._services = {name: SERVICES[name] for name in services}
        clusters = {name: [(HOST, ports.services[name]) for ports in (first, second)] for name in SERVICES}
        self.envoy = Envoy(folder, clusters)

    def of(self, service: str) -> list[Replica]:
        """The replicas of a service."""
        return [one for one in self.replicas if one.service == service]

    def __enter__(self) -> Self:
        try:
            for one in self.replicas:
                one.start()
            for one in self.replicas:
                one.wait_ready()
            self.envoy.start()
            self.wait_well()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.replicas:
            if one.process is not None and one.process.poll() is None:
                one.kill()
        self.envoy.stop()

    def wait_well(self) -> None:
        """Waits until every service answers through Envoy. Raises TimeoutError."""
        deadline = time.monotonic() + START_SECONDS
        with grpc.insecure_channel(self.envoy.address, CHANNEL_OPTIONS) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name, service in self._services.items():
                while True:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{name} does not answer through Envoy")
                    with suppress(grpc.RpcError):
                        request = health_pb2.HealthCheckRequest(service=service)
                        health.Check(request, metadata=(("x-antiphon-service", name),), timeout=5)
                        break
                    time.sleep(0.2)

    def busiest(self) -> Replica:
        """A generator that makes pieces now: the one that has used most processor time of late."""
        before = {one.port: _cpu(one) for one in self.of("generator")}
        time.sleep(0.3)
        return max(self.of("generator"), key=lambda one: _cpu(one) - before[one.port])

    @property
    def megabytes(self) -> dict[str, float]:
        found = {f"{one.service} {one.port}": one.megabytes for one in self.replicas}
        return {**found, "envoy": self.envoy.megabytes}

    @property
    def deaths(self) -> int:
        return sum(one.deaths for one in self.replicas) + self.envoy.deaths


def _cpu(replica: Replica) -> float:
    assert replica.process is not None
    times = psutil.Process(replica.process.pid).cpu_times()
    return float(times.user + times.system)
