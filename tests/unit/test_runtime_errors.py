"""Errors and request ids: what leaves the process is bounded and safe."""

from __future__ import annotations

import base64
import logging
from urllib.parse import quote

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime import context, errors, log


def test_every_error_has_the_code_of_its_name() -> None:
    leaves = [
        errors.InvalidArgument("a", "b"),
        errors.NotFound("a", "b"),
        errors.FailedPrecondition("a", "b"),
        errors.Unimplemented("a", "b"),
        errors.ResourceExhausted("a"),
        errors.Unavailable("a"),
        errors.DeadlineExceeded("a"),
        errors.Internal("a"),
    ]
    for error in leaves:
        assert error.code.name.replace("_", "") == type(error).__name__.upper()
        assert errors.to_status(error, "id").code is error.code
        assert error.reason == error.code.name


def test_an_unknown_exception_tells_nothing() -> None:
    status = errors.to_status(KeyError("/home/secret"), "id")
    assert status.code is grpc.StatusCode.INTERNAL
    assert status.details == "internal error"
    assert b"secret" not in dict(status.trailing_metadata or ())["grpc-status-details-bin"]


def test_several_violations_make_one_error() -> None:
    error = errors.InvalidArgument.several([("a", "too big"), ("b", "missing")])
    assert str(error) == error.message == "a: too big; b: missing"
    with pytest.raises(ValueError, match="at least one"):
        errors.InvalidArgument.several([])


@pytest.mark.parametrize("text", ["a", "é", "\U0001f3b5", "%", "\ud800"])
def test_a_status_fits_into_trailers(text: str) -> None:
    huge = [(text * 10_000, text * 10_000)] * 50
    status = errors.to_status(errors.InvalidArgument.several(huge), "i" * 128)
    details = dict(status.trailing_metadata or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    assert len(base64.b64encode(details)) + len(quote(status.details)) < 7 * 1024


@given(st.one_of(st.none(), st.text(), st.binary()))
def test_request_ids_are_clean(value: str | bytes | None) -> None:
    cleaned = context.clean_request_id(value)
    assert 0 < len(cleaned) <= context.MAX_REQUEST_ID_LENGTH
    assert cleaned.isascii() and cleaned.isprintable() and " " not in cleaned
    assert context.clean_request_id(cleaned) == cleaned


def test_outside_a_call_there_is_neither_id_nor_deadline() -> None:
    assert context.request_id() == ""
    assert context.remaining_seconds() is None


def test_logs_are_json_with_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    token = context.request_id_variable.set("r-1")
    try:
        for form in ("json", "text"):
            log.configure("INFO", form)
            logging.getLogger("a").debug("unseen")
            logging.getLogger("a").info("seen %d", 1, extra={"steps": 2})
    finally:
        context.request_id_variable.reset(token)
        root.handlers[:], root.level = before
        logging.captureWarnings(False)
    as_json, as_text = capsys.readouterr().out.splitlines()
    assert '"level": "INFO", "logger": "a", "message": "seen 1"' in as_json
    assert '"steps": 2' in as_json and '"request_id": "r-1"' in as_json and '+00:00"' in as_json
    assert as_text.endswith("INFO    a: seen 1 steps=2 request_id=r-1")
