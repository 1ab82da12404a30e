"""Settings of a service, read from `ANTIPHON_*`.

A service subclasses `ServiceSettings` with its own fields: the field `max_queue` is read from
`ANTIPHON_MAX_QUEUE`. Fields carry no aliases. A variable that starts with `ANTIPHON_` and belongs to
nobody is refused: a misspelt setting must not pass for a default.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

PREFIX = "ANTIPHON_"

# Variables of other parts, which may be set in the shell that starts a service.
FOREIGN_VARIABLES = {
    "ANTIPHON_TARGET": "the address that the client calls",
    "ANTIPHON_API_KEY": "the key that the client sends",
    "ANTIPHON_PLAYER": "the program that the client plays with",
    "ANTIPHON_CORS_ORIGINS": "the origins of web pages that may call the local stack",
    "ANTIPHON_KERNELS": "the folder that keeps the compiled kernels",
    "ANTIPHON_REQUIRE_ALL": "makes the tests fail where something they need is missing",
}

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:/\s]+):(?P<port>\d{1,5})")


# What sockaddr_un takes, without its closing zero.
_MAX_SOCKET_PATH_BYTES = 107


def socket_path(address: str) -> Path:
    """The path in "unix:/path"."""
    return Path(address.removeprefix("unix:"))


def split_address(address: str) -> tuple[str, int]:
    """Splits "host:port" or "[::1]:port" into the host, without brackets, and the port.

    Raises:
        ValueError: the text has another form, or the port is above 65535.
    """
    match = _HOST_PORT.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ValueError('must be "host:port" with a port from 0 to 65535')
    return match["host"].strip("[]"), int(match["port"])


def _check_listen(address: str) -> str:
    if address.startswith("unix:"):
        path = socket_path(address)
        if not path.name:
            raise ValueError('must name a path after "unix:"')
        if len(bytes(path)) > _MAX_SOCKET_PATH_BYTES:
            raise ValueError(f"the path of a Unix socket may have {_MAX_SOCKET_PATH_BYTES} bytes")
        return address
    split_address(address)
    return address


def _check_metrics_listen(address: str) -> str:
    if address:
        split_address(address)
    return address


class ServiceSettings(BaseSettings):
    """What every service needs. Raises ValidationError for a bad value or an unknown variable."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    listen: Annotated[str, AfterValidator(_check_listen)] = Field(
        default="127.0.0.1:50051",
        description='Where gRPC listens: "host:port" (port 0: any free one) or "unix:/path".',
    )
    metrics_listen: Annotated[str, AfterValidator(_check_metrics_listen)] = Field(
        default="127.0.0.1:9101", description='Where Prometheus scrapes: "host:port"; empty for nowhere.'
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Least level to log.")
    log_format: Literal["json", "text"] = Field(default="json", description="One JSON object a line, or plain text.")
    drain_grace_seconds: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="How long running streams may go on after SIGTERM.",
    )
    drain_delay_seconds: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="From the fall of health to refusing new streams, for load balancers to notice.",
    )
    max_message_bytes: int = Field(default=64 * 1024 * 1024, gt=0, lt=2**31, description="Largest message, either way.")
    max_concurrent_rpcs: int = Field(
        default=1000,
        gt=0,
        description="Calls at once; more get RESOURCE_EXHAUSTED. Health checks do not count.",
    )
    max_concurrent_rpcs_per_client: int = Field(
        default=0,
        ge=0,
        description="The same for each client that the edge names in x-client-id; 0 for no limit of its own.",
    )

    @classmethod
    def variables(cls) -> set[str]:
        """Return the names of the environment variables that these settings are read from."""
        return {f"{PREFIX}{name}".upper() for name in cls.model_fields}

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_variables(cls, values: Any) -> Any:
        known = cls.variables() | FOREIGN_VARIABLES.keys()
        for variable in sorted(os.environ):
            if not variable.upper().startswith(PREFIX) or variable.upper() in known:
                continue
            close = difflib.get_close_matches(variable.upper(), sorted(known), n=1, cutoff=0.0)
            raise PydanticCustomError(
                "unknown_variable",
                "{variable} is not a setting of this service\nhint: did you mean {close}?",
                {"variable": variable, "close": close[0]},
            )
        return values


def _listed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [name.strip() for name in value.split(",")]


class ModelSettings(ServiceSettings):
    """What every service that runs models needs."""

    own_ports: ClassVar[tuple[int, int]]
    """Default ports of gRPC and of the metrics."""
    own_models: ClassVar[tuple[str, ...]] = ("tiny",)
    """Default of ``models``."""

    models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = Field(
        default=(),
        min_length=1,
        description="Models to load, the default first: names with commas between, or a JSON list.",
    )
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="Where they run.")
    threads: int = Field(default=0, ge=0, description="Threads of PyTorch; 0 for its own choice.")

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        grpc, metrics = cls.own_ports
        own = {"listen": f"127.0.0.1:{grpc}", "metrics_listen": f"127.0.0.1:{metrics}", "models": cls.own_models}
        return {**own, **values}

    @field_validator("models")
    @classmethod
    def _check_models(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "" in names or len(set(names)) < len(names):
            raise ValueError("must be different names, none of them empty")
        return names


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def load_settings(cls: type[SettingsT]) -> SettingsT:
    """Reads the settings from the environment. Bad ones end the process with a message and status 2."""
    try:
        return cls()
    except ValidationError as error:
        problems = [_describe(detail["loc"], detail["msg"]) for detail in error.errors()]
    except SettingsError as error:
        # A list or a mapping that is not JSON.
        problems = [str(error)]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


def _describe(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not location:
        return message
    variable = f"{PREFIX}{location[0]}".upper()
    given = os.environ.get(variable)
    return f"{variable}: {message}" + ("" if given is None else f" (it is {given!r})")
