"""Renders composed pieces with fluidsynth into a folder that the training steps read.

    python -m services.models.tiny.render --out out/tiny/data --clips 3000
    python -m services.models.tiny.render --out out/tiny/openings --clips 24000 --first-seed 100000 --seconds 2

Writes ``captions.jsonl`` (one line a clip: its attributes and a caption) and ``audio.npy`` (int16 ``[clips,
samples]``, mono, 32 kHz); a clip that is not rendered yet is silent. Needs Debian's ``fluidsynth`` and
``musescore-general-soundfont-small`` (MIT licence), or any General MIDI soundfont given by ``--soundfont``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import mido
import numpy as np
import soundfile

from .captions import caption
from .compose import CLIP_SECONDS, Piece

SAMPLE_RATE_HZ = 32_000
SOUNDFONT = Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3")
SECONDS_PER_FILE = 840.0
_TICKS_PER_SECOND = 1000  # 500 ticks a beat at mido's default 120 bpm: a frame is 20 ticks
_GAINS = {"piano": 5.0, "guitar": 4.8, "strings": 6.0, "trumpet": 3.4, "organ": 6.0, "marimba": 5.4}
"""What brings the loudest pieces of each to a peak of 0.75 to 0.9."""
_TAIL_SECONDS = 1.0  # for the last note, before the next piece


def midi_of(pieces: list[Piece], seconds: float = CLIP_SECONDS) -> mido.MidiFile:
    """Lay the beginnings of pieces one after the other, each in a slot of its own, in one MIDI file.

    One start of fluidsynth for many clips is what makes data cheap.
    """
    events: list[tuple[float, int, mido.Message]] = []
    for index, piece in enumerate(pieces):
        offset = index * (seconds + _TAIL_SECONDS)
        events.append((offset, 0, mido.Message("program_change", channel=0, program=piece.program)))
        events.append((offset, 0, mido.Message("program_change", channel=1, program=piece.bass_program)))
        for note in piece.notes(seconds):
            key = {"channel": note.channel, "note": note.pitch}
            events.append((offset + note.start_seconds, 2, mido.Message("note_on", velocity=note.velocity, **key)))
            events.append((offset + note.end_seconds, 1, mido.Message("note_off", **key)))
    track = mido.MidiTrack()
    now = 0
    for moment, _, message in sorted(events, key=lambda event: event[:2]):
        tick = round(moment * _TICKS_PER_SECOND)
        track.append(message.copy(time=tick - now))
        now = tick
    file = mido.MidiFile(ticks_per_beat=500)
    file.tracks.append(track)
    return file


def render(pieces: list[Piece], soundfont: Path = SOUNDFONT, seconds: float = CLIP_SECONDS) -> np.ndarray:
    """Return so much of each piece as int16 audio ``[pieces, samples]``, mono, 32 kHz, each instrument at one gain."""
    samples = round(seconds * SAMPLE_RATE_HZ)
    slot = round((seconds + _TAIL_SECONDS) * SAMPLE_RATE_HZ)
    with tempfile.TemporaryDirectory() as folder:
        midi, wav = Path(folder, "pieces.mid"), Path(folder, "pieces.wav")
        midi_of(pieces, seconds).save(midi)
        command = ["fluidsynth", "-ni", "-q", "-g", "0.3", "-R", "0", "-C", "0", "-T", "wav", "-O", "float"]
        subprocess.run([*command, "-r", str(SAMPLE_RATE_HZ), "-F", str(wav), str(soundfont), str(midi)], check=True)
        audio, _ = soundfile.read(wav, dtype="float32", always_2d=True)
    mono = audio.mean(axis=1)
    mono = np.pad(mono, (0, max(0, slot * len(pieces) - mono.shape[0])))
    clips = np.stack([mono[i * slot : i * slot + samples] for i in range(len(pieces))])
    # One gain for all pieces of an instrument, not a peak for each: a note then always has the same codes.
    gains = np.array([[_GAINS[piece.instrument]] for piece in pieces])
    return np.asarray(np.clip(clips * gains, -0.99, 0.99) * 32767.0).astype(np.int16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/tiny/data"))
    parser.add_argument("--clips", type=int, default=3000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=CLIP_SECONDS, help="of each piece (default: all)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--soundfont", type=Path, default=SOUNDFONT)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pieces = [Piece.draw(2 * (options.first_seed + index)) for index in range(options.clips)]
    shape = (len(pieces), round(options.seconds * SAMPLE_RATE_HZ))
    together = round(SECONDS_PER_FILE / (options.seconds + _TAIL_SECONDS))
    audio = np.lib.format.open_memmap(options.out / "audio.npy", mode="w+", dtype=np.int16, shape=shape)

    def fill(first: int) -> None:
        part = pieces[first : first + together]
        audio[first : first + len(part)] = render(part, options.soundfont, options.seconds)

    with (options.out / "captions.jsonl").open("w") as file:
        for piece in pieces:
            file.write(json.dumps({**asdict(piece), "caption": caption(piece, piece.seed)}) + "\n")
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(fill, range(0, len(pieces), together)))
    audio.flush()
    print(f"rendered: {len(pieces)} clips, {len(pieces) * options.seconds / 3600:.1f} hours, in {options.out}")


if __name__ == "__main__":
    main()
