"""`python -m services.codec`: serve the codecs until SIGTERM."""

from __future__ import annotations

import sys

from services.codec.service import CodecService
from services.codec.settings import CodecSettings
from services.runtime.config import load_settings
from services.runtime.server import run


def main() -> int:
    settings = load_settings(CodecSettings)
    return run(CodecService(settings), settings)


if __name__ == "__main__":
    sys.exit(main())
