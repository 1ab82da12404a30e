"""What the process runner is told to run; a JSON file between two processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """A process: its name, its arguments, and how its environment differs from the runner's own.

    The plan is a file, so it holds only the difference: an environment may hold secrets.
    """

    name: str
    arguments: list[str]
    environment: dict[str, str]
    removed: list[str]


@dataclass(frozen=True)
class Plan:
    """Processes and how to treat them.

    `proxies` names those that stop last, `folder` takes the logs, `console` copies them to stderr,
    `keep_going` leaves the rest running when one ends, `grace_seconds` is the time to end after a stop.
    """

    commands: list[Command]
    proxies: list[str]
    folder: str
    console: bool
    keep_going: bool
    grace_seconds: float

    def dump(self, path: Path) -> None:
        """Writes the plan to a file."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Reads what `dump` wrote."""
        fields = json.loads(path.read_text())
        return cls(**{**fields, "commands": [Command(**one) for one in fields["commands"]]})
