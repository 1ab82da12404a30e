"""`python -m services.analyzer`: serve the discriminators until SIGTERM."""

from __future__ import annotations

import sys

from services.analyzer.service import AnalyzerService
from services.analyzer.settings import AnalyzerSettings
from services.runtime.config import load_settings
from services.runtime.server import run


def main() -> int:
    settings = load_settings(AnalyzerSettings)
    return run(AnalyzerService(settings), settings)


if __name__ == "__main__":
    sys.exit(main())
