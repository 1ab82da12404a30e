# The classes bear the names of the codes on the wire.
"""Errors that reach the caller. The code on the wire stands on the class.

    ServiceError
    ├── FieldError                what the caller sent, named field by field
    │   ├── InvalidArgument       INVALID_ARGUMENT     the value can never be right
    │   ├── NotFound              NOT_FOUND            the value names what is not here
    │   ├── FailedPrecondition    FAILED_PRECONDITION  the value comes at the wrong time
    │   └── Unimplemented         UNIMPLEMENTED        the value asks for what this server can't do
    ├── RetryableError            the same request may succeed later
    │   ├── ResourceExhausted     RESOURCE_EXHAUSTED   too much at once
    │   └── Unavailable           UNAVAILABLE          not ready yet, or no longer
    ├── DeadlineExceeded          DEADLINE_EXCEEDED
    └── Internal                  INTERNAL             our fault

Raise these anywhere below the interceptor; `to_status` turns them into rich statuses. Any other
exception becomes INTERNAL and its text stays in the log.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, NamedTuple, cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

DOMAIN = "antiphon"
RETRY_AFTER_HEADER = "retry-after"
ELSEWHERE_HEADER = "x-antiphon-elsewhere"
"""Envoy's retry policy knows it (k8s/base/envoy/envoy.yaml)."""

# Details travel in HTTP/2 trailers, which peers cap at 8 KiB; base64 and percent signs count there.
_MAX_VIOLATIONS = 8
_MAX_FIELD_BYTES = 100
_MAX_DESCRIPTION_BYTES = 250
_MAX_MESSAGE_BYTES = 400


class Violation(NamedTuple):
    """A field of the request, as a path ("config.prompts[0].text"), and what is wrong with it."""

    field: str
    description: str


class ServiceError(Exception):
    """Base of all. `reason` is UPPER_SNAKE_CASE, for programs; `message` is for people."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.code.name

    def details(self) -> list[Message]:
        """The google.rpc details of this kind of error."""
        return []

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Trailing metadata of this kind of error, for whoever reads no details."""
        return ()


class FieldError(ServiceError):
    """The request is at fault. `violations` names at least one field."""

    def __init__(self, field: str, description: str, *, reason: str | None = None) -> None:
        super().__init__(f"{field}: {description}", reason=reason)
        self.violations: tuple[Violation, ...] = (Violation(field, description),)

    def details(self) -> list[Message]:
        return [
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=_shorten(violation.field, _MAX_FIELD_BYTES),
                        description=_shorten(violation.description, _MAX_DESCRIPTION_BYTES),
                    )
                    for violation in self.violations[:_MAX_VIOLATIONS]
                ]
            )
        ]


class InvalidArgument(FieldError):
    """A value outside its documented range."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    @classmethod
    def several(cls, violations: Iterable[tuple[str, str]], *, reason: str | None = None) -> InvalidArgument:
        """One error for several fields. Raises ValueError when there are none."""
        found = tuple(Violation(*violation) for violation in violations)
        if not found:
            raise ValueError("an InvalidArgument needs at least one violation")
        error = cls(*found[0], reason=reason)
        error.violations = found
        error.message = "; ".join(f"{field}: {description}" for field, description in found)
        error.args = (error.message,)
        return error


class NotFound(FieldError):
    """A name that this server does not know."""

    code = grpc.StatusCode.NOT_FOUND


class FailedPrecondition(FieldError):
    """A message that is right in itself and comes at the wrong time."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Unimplemented(FieldError):
    """A value that the contract allows and this server can't serve."""

    code = grpc.StatusCode.UNIMPLEMENTED


class RetryableError(ServiceError):
    """The same request may succeed after `retry_after_seconds`, or at once on another replica if `elsewhere`.

    `elsewhere` promises that nothing of the call was begun here: the edge then tries it again by itself.
    """

    def __init__(
        self,
        message: str,
        retry_after_seconds: float = 1.0,
        *,
        reason: str | None = None,
        elsewhere: bool = False,
    ) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_seconds = retry_after_seconds
        self.elsewhere = elsewhere

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What the edge reads: the time for HTTP callers, in whole seconds, and whether to try another replica."""
        after = (RETRY_AFTER_HEADER, str(max(1, math.ceil(self.retry_after_seconds))))
        return (after, (ELSEWHERE_HEADER, "true")) if self.elsewhere else (after,)

    def details(self) -> list[Message]:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(0, round(self.retry_after_seconds * 1000)))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]


class ResourceExhausted(RetryableError):
    """Every slot and every place in the queue is taken."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(RetryableError):
    """The model is loading, or the server is going down."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(ServiceError):
    """The caller's time is up, or will be before the work can be done."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Internal(ServiceError):
    """Our fault. The message is sent, so it must say nothing of the insides."""

    code = grpc.StatusCode.INTERNAL


def to_status(error: BaseException, request_id: str) -> grpc.Status:
    """Turns an error into a status with its own details, ErrorInfo and RequestInfo.

    What is no `ServiceError` becomes INTERNAL "internal error"; the caller of this function logs it.
    """
    if not isinstance(error, ServiceError):
        error = Internal("internal error")
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    request = error_details_pb2.RequestInfo(request_id=request_id)
    packed = []
    for detail in (*error.details(), info, request):
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(
        code=error.code.value[0], message=_shorten(error.message, _MAX_MESSAGE_BYTES), details=packed
    )
    return cast(grpc.Status, rpc_status.to_status(status))


def _shorten(text: str, limit: int) -> str:
    """Cuts to `limit` bytes of UTF-8 and drops what UTF-8 can't hold."""
    data = text.encode("utf-8", "replace")
    return data[:limit].decode("utf-8", "ignore")
