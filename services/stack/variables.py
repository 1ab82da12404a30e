"""Which of the `ANTIPHON_*` variables belong to whom: one environment serves all services here."""

from __future__ import annotations

import importlib

from services.stack.ports import SERVICES


def foreign(name: str) -> list[str]:
    """Returns the settings that only other services have, for a service refuses what it does not know."""
    return sorted(set().union(*(_settings(service) for service in SERVICES)) - _settings(name))


def _settings(name: str) -> set[str]:
    module = importlib.import_module(f"services.{name}.settings")
    return set(getattr(module, f"{name.capitalize()}Settings").variables())
