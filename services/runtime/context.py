"""What a call carries besides its message: its id and the time it has left.

Both travel in context variables, so code far below the servicer reads them without being handed them.
They are unset outside a call.
"""

from __future__ import annotations

import re
import time
import uuid
from contextvars import ContextVar
from typing import Any

REQUEST_ID_HEADER = "x-request-id"
CLIENT_HEADER = "x-client-id"
"""Names the caller. The edge writes it, over whatever the caller says."""
MAX_REQUEST_ID_LENGTH = 128

# Set by the interceptor only.
request_id_variable: ContextVar[str] = ContextVar("antiphon_request_id", default="")
deadline_variable: ContextVar[float | None] = ContextVar("antiphon_deadline", default=None)

# What other systems put in an id, and nothing that could forge a log line or a header.
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._:/+=@-]")


def request_id() -> str:
    """The id of the running call; empty outside a call."""
    return request_id_variable.get()


def client_of(context: Any) -> str:
    """Who makes a call: what the edge says, else the peer's host. The argument is gRPC's own context."""
    named = dict(context.invocation_metadata() or ()).get(CLIENT_HEADER, "")
    return str(named) or str(context.peer()).rpartition(":")[0]


def remaining_seconds() -> float | None:
    """Seconds until the running call's deadline, never below 0; None when it has no deadline."""
    deadline = deadline_variable.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def clean_request_id(value: str | bytes | None) -> str:
    """Returns the caller's id without unsafe characters and at most 128 long, or a new one.

    An id that has nothing left is replaced by a random UUID.
    """
    text = value.decode("latin-1") if isinstance(value, bytes) else value or ""
    return _FORBIDDEN.sub("", text)[:MAX_REQUEST_ID_LENGTH] or str(uuid.uuid4())
