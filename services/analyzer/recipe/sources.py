"""Recorded audio with a free licence: Debian packages of music, speech and sound effects.

    python -m services.analyzer.recipe.sources

Fetches the packages with apt-get and unpacks them without installing anything. Short files (words, drum hits) of one
folder are chained into recordings, and a recording, never a part of one, belongs to one split. Two sources are left
out of training and calibration whole. Beside them stand the pieces that fluidsynth rendered for the embedded music
model (`services.models.tiny.render`); of those, the test takes only what the embedded codec was not trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch

from services.models.resampling import convert

FOLDER = Path("out/analyzer/sources")
RENDERS = Path("out/tiny/data/audio.npy")
RATE_HZ = 32_000
Split = Literal["training", "calibration", "test", "foreign"]
SPLITS: tuple[Split, ...] = ("training", "calibration", "test", "foreign")
_EXTENSIONS = {".ogg", ".wav", ".flac", ".mp3", ".oga", ".opus"}
_CHAIN_SECONDS = 14.0
_LONGEST_SECONDS = 100.0
_TEST_RENDERS = 100


@dataclasses.dataclass(frozen=True)
class Source:
    """A Debian package of audio."""

    package: str
    kind: Literal["music", "speech", "effects"]
    license: str
    foreign: bool = False
    """Left out of training and calibration, to measure on audio of another origin."""
    stems: bool = False
    """The files of a folder are tracks of one piece: they go into the same split."""
    limit: int = 400
    """At most so many recordings."""


SOURCES = (
    Source("wesnoth-1.16-music", "music", "GPL-2+"),
    Source("warzone2100-music", "music", "CC0-1.0 and others"),
    Source("fretsonfire-songs-sectoid", "music", "GPL", stems=True),
    Source("fretsonfire-songs-muldjord", "music", "CC-BY-SA-3.0", stems=True),
    Source("hyperrogue-music", "music", "GPL-2+, CC-BY-SA-3.0"),
    Source("lugaru-data", "music", "CC-BY-SA-3.0"),
    Source("singularity-music", "music", "CC-BY-SA-3.0", foreign=True),
    Source("tuxpaint-stamps-default", "speech", "GPL-2"),
    Source("klettres-data", "speech", "GPL-2+"),
    Source("ktuberling-data", "speech", "GPL-2+"),
    Source("fillets-ng-data-cs", "speech", "GPL-2+"),
    Source("fillets-ng-data-nl", "speech", "GPL-2+", foreign=True),
    Source("sonic-pi-samples", "effects", "CC0-1.0"),
    Source("hydrogen-drumkits", "effects", "GPL-2+, CC-BY-3.0, CC-BY-SA-3.0"),
)


@dataclasses.dataclass(frozen=True)
class Recording:
    """One recording: a file, a chain of short ones, or a rendered clip."""

    name: str
    kind: str
    source: str
    split: Split
    files: tuple[Path, ...] = ()
    clip: int = -1
    """Number in the rendered clips; -1 where `files` hold it."""

    def read(self) -> torch.Tensor:
        """Return mono float32 ``[T]`` at 32 kHz, the first 100 seconds."""
        if self.clip >= 0:
            return torch.from_numpy(np.load(RENDERS, mmap_mode="r")[self.clip].astype(np.float32) / 32768.0)
        return torch.cat([_read(path) for path in self.files])[: round(_LONGEST_SECONDS * RATE_HZ)]


def fetch(folder: Path = FOLDER) -> None:
    """Download and unpack what is not there yet. Needs apt-get and dpkg."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        target = folder / source.package
        if target.exists():
            continue
        subprocess.run(["apt-get", "download", "-q", source.package], cwd=folder, check=True)
        (package,) = folder.glob(f"{source.package}_*.deb")
        partial = folder / f"{source.package}.part"
        subprocess.run(["dpkg", "-x", str(package), str(partial)], check=True)
        package.unlink()
        partial.rename(target)


def recordings(folder: Path = FOLDER) -> list[Recording]:
    """List all recordings, rendered clips last. Raises `FileNotFoundError` when a source was not fetched."""
    found: list[Recording] = []
    for source in SOURCES:
        if not (folder / source.package).exists():
            raise FileNotFoundError(f"{source.package}: run python -m services.analyzer.recipe.sources first")
        chained = [
            Recording(
                name,
                source.kind,
                source.package,
                _split(str(Path(name).parent) if source.stems else name, source.foreign),
                files,
            )
            for name, files in _chains(folder / source.package)
        ]
        found += sorted(chained, key=lambda recording: _number(recording.name))[: source.limit]
    clips = len(np.load(RENDERS, mmap_mode="r"))
    for clip in range(clips):
        name = f"render/{clip}"
        split = "test" if clip >= clips - _TEST_RENDERS else "calibration" if _number(name) % 8 == 0 else "training"
        found.append(Recording(name, "render", "renders", split, clip=clip))  # type: ignore[arg-type]
    return found


def _split(name: str, foreign: bool) -> Split:
    if foreign:
        return "foreign"
    number = _number(name) % 100
    return "training" if number < 62 else "calibration" if number < 77 else "test"


def _number(name: str) -> int:
    """A number that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")


def _chains(folder: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Yield name and files of each recording of a package: files of a folder in order until it is long enough."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _EXTENSIONS and not path.is_symlink())
    for parent, files in itertools.groupby(paths, key=lambda path: path.parent):
        chain: list[Path] = []
        seconds = 0.0
        for path in files:
            try:
                duration = soundfile.info(path).duration
            except soundfile.LibsndfileError:
                continue
            chain.append(path)
            seconds += duration
            if seconds >= _CHAIN_SECONDS:
                yield f"{folder.name}/{(parent / chain[0].name).relative_to(folder)}", tuple(chain)
                chain, seconds = [], 0.0
        if seconds >= 4.0:
            yield f"{folder.name}/{(parent / chain[0].name).relative_to(folder)}", tuple(chain)


def _read(path: Path) -> torch.Tensor:
    rate = soundfile.info(path).samplerate
    audio, _ = soundfile.read(path, frames=round(_LONGEST_SECONDS * rate), dtype="float32", always_2d=True)
    return convert(torch.from_numpy(audio.T.copy()), rate, RATE_HZ, 1)[0]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    fetch()
    counts: dict[tuple[str, str], int] = {}
    for recording in recordings():
        key = (recording.source, recording.split)
        counts[key] = counts.get(key, 0) + 1
    for (name, split), count in counts.items():
        print(f"{name:32} {split:12} {count}")


if __name__ == "__main__":
    main()
