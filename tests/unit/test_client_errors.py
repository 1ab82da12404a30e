"""From errors of grpc to errors of ours."""

from __future__ import annotations

import pickle

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

import antiphon
from antiphon.errors import AntiphonError, FieldViolation, from_rpc_error

CLASSES = {
    "INVALID_ARGUMENT": antiphon.InvalidArgumentError,
    "NOT_FOUND": antiphon.NotFoundError,
    "FAILED_PRECONDITION": antiphon.FailedPreconditionError,
    "RESOURCE_EXHAUSTED": antiphon.ResourceExhaustedError,
    "UNAVAILABLE": antiphon.UnavailableError,
    "DEADLINE_EXCEEDED": antiphon.DeadlineExceededError,
    "CANCELLED": antiphon.CancelledError,
    "UNAUTHENTICATED": antiphon.UnauthenticatedError,
    "PERMISSION_DENIED": antiphon.PermissionDeniedError,
    "UNIMPLEMENTED": antiphon.UnimplementedError,
    "INTERNAL": antiphon.InternalError,
    "UNKNOWN": antiphon.InternalError,
}


def rpc_error(code: grpc.StatusCode, message: str, *details: object, status: str | None = None) -> grpc.RpcError:
    rich = status_pb2.Status(code=code.value[0], message=message if status is None else status)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)  # type: ignore[arg-type]
        rich.details.append(packed)
    trailer = grpc.aio.Metadata(("grpc-status-details-bin", rich.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailer, message)


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_code_has_a_class(code: grpc.StatusCode) -> None:
    error = from_rpc_error(rpc_error(code, "why"), "mine")
    assert type(error) is CLASSES.get(code.name, type(error))
    assert type(error) is not AntiphonError or code is grpc.StatusCode.OK
    assert (error.code, error.message, str(error), error.request_id) == (code, "why", "why", "mine")


def test_details_become_attributes() -> None:
    error = from_rpc_error(
        rpc_error(
            grpc.StatusCode.NOT_FOUND,
            "model: huge is not loaded",
            error_details_pb2.BadRequest(
                field_violations=[{"field": "config.model", "description": "huge is not loaded"}]
            ),
            error_details_pb2.ErrorInfo(reason="MODEL_NOT_FOUND"),
            error_details_pb2.RequestInfo(request_id="theirs"),
            error_details_pb2.RetryInfo(retry_delay={"seconds": 1, "nanos": 500_000_000}),
            error_details_pb2.Help(),
        ),
        "mine",
    )
    assert error.violations == [FieldViolation("config.model", "huge is not loaded")]
    assert (error.reason, error.request_id, error.retry_after_seconds) == ("MODEL_NOT_FOUND", "theirs", 1.5)


def test_details_of_another_error_are_not_taken() -> None:
    info = error_details_pb2.ErrorInfo(reason="STALE")
    error = from_rpc_error(rpc_error(grpc.StatusCode.INTERNAL, "new", info, status="old"), "mine")
    assert (error.message, error.reason) == ("new", "")


def test_an_error_without_words_has_a_message() -> None:
    assert from_rpc_error(rpc_error(grpc.StatusCode.INTERNAL, ""), "").message == "internal"


def test_errors_survive_pickling() -> None:
    error = antiphon.ResourceExhaustedError("busy", retry_after_seconds=2.0, request_id="id")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
