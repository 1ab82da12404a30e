"""Everything that the package raises.

AntiphonError
├── InvalidArgumentError      a field of the request is wrong; `violations` names it
├── NotFoundError             no such model
├── FailedPreconditionError   the call came at the wrong time
├── ResourceExhaustedError    the server is full; `retry_after_seconds` says when to come again
├── UnavailableError          nobody answers
├── DeadlineExceededError     `timeout` ran out
├── CancelledError            the call was cancelled
├── UnauthenticatedError      no API key, or a wrong one
├── PermissionDeniedError     the API key does not allow this
├── UnimplementedError        the server does not know the method
├── InternalError             the server failed
└── ProtocolError             the server broke the contract: a gap in the chunks, an early end

Errors of grpc never leave the package; they are the `__cause__` of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status


@dataclass(frozen=True)
class FieldViolation:
    """A field of the request that the server, or the client before sending, refuses."""

    field: str
    description: str


class AntiphonError(Exception):
    """What all errors of the package have in common.

    Attributes:
        code: The gRPC status code.
        message: What went wrong, in a sentence.
        reason: A constant that programs may compare, such as "MODEL_NOT_FOUND"; empty when there is none.
        request_id: The id under which the server logged the call; empty when the call was not sent.
        violations: The fields that are to blame; empty when it is not about fields.
        retry_after_seconds: How long the server asks to wait before the next try; None when it does not say.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        request_id: str = "",
        violations: Sequence[FieldViolation] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.message = message
        self.reason = reason
        self.request_id = request_id
        self.violations = list(violations)
        self.retry_after_seconds = retry_after_seconds


class InvalidArgumentError(AntiphonError):
    """A field of the request is out of its range; `violations` names it."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class NotFoundError(AntiphonError):
    """No model of that name is loaded."""

    default_code = grpc.StatusCode.NOT_FOUND


class FailedPreconditionError(AntiphonError):
    """The call came at the wrong time: on a closed client, or out of order in a stream."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhaustedError(AntiphonError):
    """The server is full, or the caller's quota is used up; `retry_after_seconds` says when to come again."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class UnavailableError(AntiphonError):
    """Nobody answers at the address, or the connection broke."""

    default_code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceededError(AntiphonError):
    """The call took longer than its `timeout`."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class CancelledError(AntiphonError):
    """The call was cancelled, or its stream or client was closed while it ran."""

    default_code = grpc.StatusCode.CANCELLED


class UnauthenticatedError(AntiphonError):
    """The API key is missing or unknown."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(AntiphonError):
    """The API key does not allow this call."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


class UnimplementedError(AntiphonError):
    """The server does not know the method."""

    default_code = grpc.StatusCode.UNIMPLEMENTED


class InternalError(AntiphonError):
    """The server failed."""

    default_code = grpc.StatusCode.INTERNAL


class ProtocolError(AntiphonError):
    """The server broke the contract: chunks with a gap, an end before the end."""

    default_code = grpc.StatusCode.DATA_LOSS


_BY_CODE: dict[grpc.StatusCode, type[AntiphonError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.ALREADY_EXISTS: FailedPreconditionError,
    grpc.StatusCode.ABORTED: FailedPreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}


def from_rpc_error(error: grpc.RpcError, request_id: str) -> AntiphonError:
    """Returns the exception that stands for `error`, with what its google.rpc details say.

    `request_id` is used where the server does not repeat it.
    """
    # Every RpcError that a call raises is the call too; the declared type does not say so.
    code: grpc.StatusCode = error.code()
    rejected: list[FieldViolation] = []
    reason, retry_after = "", None
    for detail in _details(error):
        match detail:
            case error_details_pb2.BadRequest():
                rejected += [FieldViolation(v.field, v.description) for v in detail.field_violations]
            case error_details_pb2.RetryInfo():
                retry_after = detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9
            case error_details_pb2.ErrorInfo():
                reason = detail.reason
            case error_details_pb2.RequestInfo():
                request_id = detail.request_id or request_id
    return _BY_CODE.get(code, AntiphonError)(
        error.details() or code.name.lower().replace("_", " "),
        code=code,
        reason=reason,
        request_id=request_id,
        violations=rejected,
        retry_after_seconds=retry_after,
    )


@contextmanager
def reported(request_id: str) -> Iterator[None]:
    """Turns errors of grpc into ours, and gives every error of ours the id of the call that it belongs to."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, request_id) from error
    except AntiphonError as error:
        error.request_id = error.request_id or request_id
        raise


_DETAILS = (
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.ErrorInfo,
    error_details_pb2.RequestInfo,
)


def _details(error: grpc.RpcError) -> list[Any]:
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        # A proxy rewrote the status and left the trailer of another: the details are not this error's.
        status = None
    found = []
    for packed in status.details if status is not None else ():
        for detail in (make() for make in _DETAILS):
            if packed.Unpack(detail):
                found.append(detail)
    return found
