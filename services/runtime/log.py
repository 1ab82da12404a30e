"""Logs to stdout: one JSON object a line, or text for people. Never a prompt, never audio."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from services.runtime.context import request_id


def configure(level: str = "INFO", form: str = "json") -> None:
    """Sends everything from `level` up to stdout as "json" or "text", in place of earlier handlers."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_add_request_id)
    handler.setFormatter(_json_formatter() if form == "json" else _text_formatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)


def _json_formatter() -> logging.Formatter:
    return JsonFormatter(
        ["levelname", "name", "message"],
        timestamp="time",
        rename_fields={"levelname": "level", "name": "logger"},
    )


class _TextFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is logging's)
        extras = (f" {key}={value}" for key, value in vars(record).items() if key not in RESERVED_ATTRS)
        return super().formatMessage(record) + "".join(extras)


def _text_formatter() -> logging.Formatter:
    return _TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")


def _add_request_id(record: logging.LogRecord) -> bool:
    if identifier := request_id():
        record.request_id = identifier
    return True
