"""What surrounds every call: request id, deadline, span, admission, rich errors, metrics, access log.

One interceptor does it all, for it is one order of nested scopes, the same for unary and streaming
methods. Nothing is sent before the handler's first message: the request id travels in the trailing
metadata, so that Envoy's JSON transcoder can still turn an early error into an HTTP status.

A caller who leaves cancels the handler's task. To a handler that is just then reading, the requests may
seem to have ended first: it goes on until its next await, where the cancellation reaches it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple

import grpc

from services.runtime.admission import Admission
from services.runtime.context import (
    REQUEST_ID_HEADER,
    clean_request_id,
    client_of,
    deadline_variable,
    remaining_seconds,
    request_id_variable,
)
from services.runtime.errors import InvalidArgument, ServiceError, Unavailable, to_status
from services.runtime.metrics import Metrics
from services.runtime.tracing import Tracing

_access = logging.getLogger("antiphon.access")
_log = logging.getLogger("antiphon.calls")

# What health checks would write into the access log says nothing.
_QUIET = ("grpc.health.", "grpc.reflection.")

# gRPC rounds a timeout on the wire, up by as much as a hundredth or so; the caller gives up by its own,
# unrounded clock. A cancellation this near to the deadline is the deadline.
_DEADLINE_SLACK_SECONDS = 0.05
_DEADLINE_SLACK_SHARE = 0.03

Behavior = Callable[[Any, Any], Any]


class _Method(NamedTuple):
    kind: str
    service: str
    name: str


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of the server. Handlers are coroutine functions or async generators."""

    def __init__(self, admission: Admission, metrics: Metrics, tracing: Tracing) -> None:
        self._admission = admission
        self._metrics = metrics
        self._tracing = tracing

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            # gRPC answers UNIMPLEMENTED; a caller's made-up name must not become a label.
            return None
        service, _, name = handler_call_details.method.removeprefix("/").rpartition("/")
        if handler.request_streaming:
            kind = "bidi_stream" if handler.response_streaming else "client_stream"
        else:
            kind = "server_stream" if handler.response_streaming else "unary"
        return self._wrap(handler, _Method(kind, service, name))

    def _wrap(self, handler: Any, method: _Method) -> Any:
        behavior: Behavior = (
            handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary
        )
        parse = _checked(handler.request_deserializer)

        async def unary(request: Any, context: Any) -> Any:
            try:
                async with self._call(method, context):
                    return await behavior(request if handler.request_streaming else parse(request), context)
            except grpc.aio.AbortError as aborted:
                del request
                raise _alone(aborted) from None

        async def stream(request: Any, context: Any) -> None:
            try:
                async with self._call(method, context):
                    responses = behavior(request if handler.request_streaming else parse(request), context)
                    if inspect.isawaitable(responses):
                        await responses
                        return
                    # gRPC leaves a generator that it stops early to the garbage collector; here its `finally`
                    # blocks run before the call ends.
                    async with aclosing(responses):
                        async for response in responses:
                            await context.write(response)
            except grpc.aio.AbortError as aborted:
                del request
                raise _alone(aborted) from None

        make: Any = {
            "unary": grpc.unary_unary_rpc_method_handler,
            "client_stream": grpc.stream_unary_rpc_method_handler,
            "server_stream": grpc.unary_stream_rpc_method_handler,
            "bidi_stream": grpc.stream_stream_rpc_method_handler,
        }[method.kind]
        return make(
            stream if handler.response_streaming else unary,
            # A single request is parsed inside the call, where the error gets its details and is counted.
            request_deserializer=parse if handler.request_streaming else None,
            response_serializer=handler.response_serializer,
        )

    @asynccontextmanager
    async def _call(self, method: _Method, context: Any) -> AsyncIterator[None]:
        started = time.monotonic()
        metadata = tuple(context.invocation_metadata() or ())
        request_id = clean_request_id(dict(metadata).get(REQUEST_ID_HEADER))
        request_id_variable.set(request_id)
        timeout = context.time_remaining()
        deadline_variable.set(None if timeout is None else started + timeout)
        context.set_trailing_metadata(((REQUEST_ID_HEADER, request_id),))

        code = grpc.StatusCode.OK
        self._metrics.started.labels(*method).inc()
        with self._tracing.span(method.service, method.name, metadata) as span:
            try:
                with self._admission.admit(method.service, client_of(context)):
                    try:
                        yield
                    except asyncio.CancelledError:
                        if not self._admission.was_cut():
                            raise
                        raise Unavailable("the server stopped before the call had ended") from None
                code = _code(context)
            except asyncio.CancelledError:
                code = _cancellation_code(timeout)
                raise
            except grpc.aio.AbortError:
                # The handler has sent the status itself.
                code = _code(context)
                raise
            except grpc.aio.InternalError:
                # A write to a caller who has gone.
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                status = to_status(error, request_id)
                code = status.code
                if code is grpc.StatusCode.INTERNAL:
                    _log.exception("call failed", extra=_fields(method))
                own = error.metadata() if isinstance(error, ServiceError) else ()
                await context.abort(
                    code, status.details, (*context.trailing_metadata(), *own, *(status.trailing_metadata or ()))
                )
            finally:
                seconds = time.monotonic() - started
                span.end(code)
                self._metrics.handled.labels(*method, code.name).inc()
                self._metrics.handling.labels(*method).observe(seconds)
                level = logging.DEBUG if method.service.startswith(_QUIET) else logging.INFO
                _access.log(
                    level,
                    "%s/%s %s",
                    method.service,
                    method.name,
                    code.name,
                    extra={**_fields(method), "grpc_code": code.name, "seconds": round(seconds, 6)},
                )


def _alone(aborted: grpc.aio.AbortError) -> grpc.aio.AbortError:
    """Return the error without what it came of.

    gRPC's state of a call and the error that aborted it hold each other, and with them the frames of the error and of
    those before it: up to the garbage collector's next round, which counts objects and not bytes, a service would keep
    every large file that it refused.
    """
    aborted.__context__ = None
    alone: grpc.aio.AbortError = aborted.with_traceback(None)
    return alone


def _fields(method: _Method) -> dict[str, str]:
    return {"grpc_type": method.kind, "grpc_service": method.service, "grpc_method": method.name}


def _code(context: Any) -> grpc.StatusCode:
    """The code that the handler has set, as an int, a StatusCode or not at all."""
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if known.value[0] == (code or 0)), grpc.StatusCode.UNKNOWN)


def _cancellation_code(timeout: float | None) -> grpc.StatusCode:
    remaining = remaining_seconds()
    if timeout is not None and remaining is not None:
        slack = max(_DEADLINE_SLACK_SECONDS, timeout * _DEADLINE_SLACK_SHARE)
        if remaining <= slack:
            return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED


def _checked(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Makes bytes that are no message the caller's error instead of an unknown one."""

    def parse(data: bytes) -> Any:
        if deserialize is None:
            return data
        try:
            return deserialize(data)
        except Exception as error:
            raise InvalidArgument("request", "the bytes are not a message of the method's type") from error

    return parse
