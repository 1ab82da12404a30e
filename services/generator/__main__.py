"""`python -m services.generator`: serve the generators until SIGTERM."""

from __future__ import annotations

import sys

from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from services.runtime.config import load_settings
from services.runtime.server import run


def main() -> int:
    settings = load_settings(GeneratorSettings)
    return run(GeneratorService(settings), settings)


if __name__ == "__main__":
    sys.exit(main())
