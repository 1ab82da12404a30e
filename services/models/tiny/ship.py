"""Puts trained models where the loader finds the embedded ones, and prints their digests for the card.

python -m services.models.tiny.ship --music out/tiny/lm --sound out/tiny/sound_lm
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path

from services.models.checkpoint import CODEC_FILE, EMBEDDED, LM_FILE

TEXT_ENCODER = "text_encoder"
LARGEST_BYTES = 40_000_000


def ship(source: Path, target: Path) -> list[str]:
    """Replace an embedded model by a trained folder; return a line with the digest of each checkpoint file."""
    fresh = target.with_name(target.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in (LM_FILE, CODEC_FILE):
        shutil.copyfile(source / name, fresh / name)
    shutil.copytree(source / TEXT_ENCODER, fresh / TEXT_ENCODER, copy_function=shutil.copyfile)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    paths = [target / name for name in (LM_FILE, CODEC_FILE)]
    return [f"{target.name}/{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--music", type=Path, default=Path("out/tiny/lm"))
    parser.add_argument("--sound", type=Path, default=Path("out/tiny/sound_lm"))
    options = parser.parse_args()
    for name, source in (("tiny", options.music), ("tiny-sound", options.sound)):
        print("\n".join(ship(source, EMBEDDED[name])))
    size = sum(path.stat().st_size for folder in EMBEDDED.values() for path in folder.rglob("*") if path.is_file())
    print(f"together {size / 1e6:.1f} MB")
    if size > LARGEST_BYTES:
        raise SystemExit(f"too large: at most {LARGEST_BYTES / 1e6:.0f} MB may ship")


if __name__ == "__main__":
    main()
