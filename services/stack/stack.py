"""The stack as an object: start it, wait until it is healthy, look at its processes, stop it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.stack import edge
from services.stack.errors import NotReadyError, ProcessDiedError
from services.stack.plan import Command, Plan
from services.stack.ports import HOST, SERVICES, Ports
from services.stack.variables import foreign

if TYPE_CHECKING:
    from services.stack.secured import Secured

ROOT = Path(__file__).parents[2]
RUN_FOLDER = ROOT / ".cache" / "run"
EDGE = "envoy"
TAIL_LINES = 20

# Loopback never goes through a proxy, and a server that is only starting is tried again soon.
CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


@dataclass(frozen=True)
class ProcessState:
    """A process of the stack; `returncode` is None while it runs."""

    pid: int
    returncode: int | None


class Stack:
    """Services and Envoy as processes on loopback. As a context manager: starts, waits until healthy, stops.

    `services` are those to start; Envoy has a cluster for the others too, with no healthy host in it.
    `ports` are free ones unless given. `folder` takes the configuration and the logs; without one the stack
    makes its own and removes it after a good end. `console` shows the logs on stderr too. `keep_going` leaves
    the rest running when one process ends. `commands` replaces command lines by name, `environment` adds
    variables for all services. `grace_seconds` is what processes have to end after a stop before they are
    killed; the default is longer than the services' own grace. `secure` runs the production path: TLS and keys at the
    edge, a sidecar with mTLS for each service. `hosts` are where a service runs that the stack does not start. `patch`
    is laid over Envoy's configuration, for tests that need other limits.
    """

    def __init__(
        self,
        *,
        services: Iterable[str] = SERVICES,
        ports: Ports | None = None,
        folder: Path | None = None,
        console: bool = False,
        keep_going: bool = False,
        commands: Mapping[str, Sequence[str]] | None = None,
        environment: Mapping[str, str] | None = None,
        grace_seconds: float = 75.0,
        secure: bool = False,
        hosts: Mapping[str, Sequence[edge.Address]] | None = None,
        patch: Mapping[str, Any] | None = None,
    ) -> None:
        self.services = list(services)
        self.secured: Secured | None = None
        """The certificates and keys of a secured stack that has been started."""
        self.ports = ports or Ports.free()
        self.keep_going = keep_going
        self._own_folder = folder is None
        self._folder = folder
        self._console = console
        self._commands = dict(commands or {})
        self._environment = dict(environment or {})
        self._grace_seconds = grace_seconds
        self._secure = secure
        self._hosts = dict(hosts or {})
        self._patch = patch
        self._runner: subprocess.Popen[bytes] | None = None
        self._follower: threading.Thread | None = None
        self._state: dict[str, ProcessState] = {}
        # When one ends, the runner stops the others: only the first tells anything.
        self._first_dead: tuple[str, int] | None = None
        self._changed = threading.Condition()

    @property
    def address(self) -> str:
        """Envoy's gRPC address."""
        return f"{HOST}:{self.ports.edge}"

    @property
    def addresses(self) -> dict[str, str]:
        """Every address of the stack by what listens there."""
        found = {"envoy": self.address, "envoy admin": f"http://{HOST}:{self.ports.admin}"}
        for name in self.services:
            found[name] = self._listen(name)
            found[f"{name} metrics"] = f"http://{HOST}:{self.ports.metrics[name]}/metrics"
        return found

    def channel(self, *options: tuple[str, int | str]) -> grpc.Channel:
        """A new channel to Envoy, over TLS where the stack is secured."""
        if self.secured is None:
            return grpc.insecure_channel(self.address, options=(*CHANNEL_OPTIONS, *options))
        trusted = grpc.ssl_channel_credentials(self.secured.credentials.root_certificates)
        return grpc.secure_channel(self.address, trusted, options=(*CHANNEL_OPTIONS, *options))

    @property
    def folder(self) -> Path:
        """Where the rendered Envoy configuration and the logs are."""
        if self._folder is None:
            RUN_FOLDER.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(dir=RUN_FOLDER))
        return self._folder

    @property
    def processes(self) -> dict[str, ProcessState]:
        """The processes by name ("envoy" and the services), as of now."""
        with self._changed:
            return dict(self._state)

    def log(self, name: str) -> str:
        """What a process has printed so far."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Starts all processes and returns when they have pids. Raises PortTakenError, ProcessDiedError."""
        self.ports.check(self.services, secure=self._secure)
        self.folder.mkdir(parents=True, exist_ok=True)
        file, plan = self.folder / "plan.json", self._plan()
        plan.dump(file)
        self._runner = subprocess.Popen(
            [sys.executable, "-m", "services.stack.runner", str(file)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A terminal's Ctrl-C goes to its whole session; here this process decides what stops when.
            start_new_session=True,
        )
        assert self._runner.stdout is not None
        self._follower = threading.Thread(target=self._follow, args=(self._runner.stdout,), daemon=True)
        self._follower.start()
        while len(self.processes) < len(plan.commands):
            self.check()
            with self._changed:
                self._changed.wait(timeout=0.1)

    def wait_ready(self, seconds: float = 180.0) -> None:
        """Waits until every service is SERVING through Envoy. Raises NotReadyError, ProcessDiedError."""
        waiting = list(self.services)
        deadline = time.monotonic() + seconds
        with self.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while waiting:
                self.check()
                if time.monotonic() > deadline:
                    self._own_folder = False
                    raise NotReadyError(waiting, seconds, self.folder)
                waiting = [name for name in waiting if not _is_serving(health, name)]
                time.sleep(0.1 if waiting else 0)

    def check(self) -> None:
        """Raises ProcessDiedError when a process has ended by itself, or could not be started."""
        if self._first_dead is not None:
            self._own_folder = False
            name, returncode = self._first_dead
            tail = self.log(name).splitlines()[-TAIL_LINES:]
            raise ProcessDiedError(name, returncode, self.folder / f"{name}.log", tail)
        if self._runner is not None and self._runner.poll() is not None:
            raise ProcessDiedError("the process runner", self._runner.returncode, self.folder, [])

    def wait(self) -> None:
        """Blocks as long as all processes run, then raises ProcessDiedError."""
        while True:
            self.check()
            with self._changed:
                self._changed.wait(timeout=1.0)

    def stop(self) -> None:
        """Stops all: services drain, then Envoy. A KeyboardInterrupt in the meantime kills what is left."""
        if self._runner is None:
            return
        try:
            self._order("stop")
            self._runner.wait(timeout=self._grace_seconds + 10)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            self._order("kill")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._runner.wait(timeout=10)
        finally:
            self._bury()

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _plan(self) -> Plan:
        clusters = {name: self._hosts.get(name, [(HOST, port)]) for name, port in self.ports.services.items()}
        configuration = edge.configuration(secure=self._secure, patch=self._patch)
        if self._secure:
            # Here and not above, so that only who wants certificates needs what makes them.
            from services.stack.secured import Secured

            self.secured = Secured(self.folder, self.ports)
            config = self.secured.edge(configuration, clusters)
        else:
            config = self.folder / "envoy.yaml"
            config.write_text(
                edge.render(
                    configuration,
                    edge=(HOST, self.ports.edge),
                    admin=(HOST, self.ports.admin),
                    clusters=clusters,
                )
            )
        commands = [Command(EDGE, edge.command(config), {}, [])]
        if self.secured is not None:
            for name in self.services:
                commands.append(Command(edge.sidecar_name(name), edge.command(self.secured.sidecar(name)), {}, []))
        proxies = [command.name for command in commands]
        for name in self.services:
            default = [sys.executable, "-m", f"services.{name}"]
            environment = {
                "PYTHONUNBUFFERED": "1",
                # People read these logs; who sets it wants JSON.
                "ANTIPHON_LOG_FORMAT": os.environ.get("ANTIPHON_LOG_FORMAT", "text"),
                "ANTIPHON_LISTEN": self._listen(name),
                "ANTIPHON_METRICS_LISTEN": f"{HOST}:{self.ports.metrics[name]}",
                **self._environment,
            }
            commands.append(Command(name, list(self._commands.get(name, default)), environment, foreign(name)))
        return Plan(commands, proxies, str(self.folder), self._console, self.keep_going, self._grace_seconds)

    def _listen(self, name: str) -> str:
        if self.secured is not None:
            return f"unix:{self.secured.socket(name)}"
        return f"{HOST}:{self.ports.services[name]}"

    def _follow(self, reports: IO[bytes]) -> None:
        for line in reports:
            state = {name: ProcessState(**fields) for name, fields in json.loads(line).items()}
            with self._changed:
                for name, process in state.items():
                    if process.returncode is not None and self._first_dead is None:
                        self._first_dead = name, process.returncode
                self._state = state
                self._changed.notify_all()

    def _order(self, order: str) -> None:
        assert self._runner is not None
        assert self._runner.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            os.write(self._runner.stdin.fileno(), f"{order}\n".encode())

    def _bury(self) -> None:
        assert self._runner is not None
        if self._runner.poll() is None:
            self._runner.kill()
            self._runner.wait()
        if self._follower is not None:
            self._follower.join(timeout=5)
        # Only a runner that was itself killed leaves any.
        for process in self.processes.values():
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        assert self._runner.stdin is not None
        self._runner.stdin.close()
        self._runner = None
        if self.secured is not None:
            self.secured.close()
        if self._own_folder and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _is_serving(health: health_pb2_grpc.HealthStub, name: str) -> bool:
    try:
        response = health.Check(
            health_pb2.HealthCheckRequest(service=SERVICES[name]),
            metadata=[("x-antiphon-service", name)],
            timeout=5,
        )
    except grpc.RpcError:
        return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
