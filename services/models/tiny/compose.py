"""Composes short pieces of music.

A piece is drawn from a handful of audible attributes: instrument, mood, tempo, key, mode, pattern, drums. The same
attributes make its notes and its captions (``captions.py``), so a caption never lies about its piece. Notes are
General MIDI events in seconds; ``render.py`` turns them into sound.

Each attribute is made easy to hear, because a small model must learn it from hours, not years, of audio: a bass note
falls on every beat, chords are those of the first, fourth and fifth degree (all major, or all minor), what accompanies
an instrument is of its own family, and the tune of four bars comes again.

Notes begin and end where the codec's frames do, at few velocities. The codec is causal, so the same note then has the
same codes each time, but for what sounds with it: a language model meets words, not noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

CLIP_SECONDS = 20.0
"""Length of a composed piece in seconds: the longest segment that the embedded model is trained on."""

FRAME_SECONDS = 0.02
"""Length of one of the codec's frames in seconds."""

INSTRUMENTS = {"piano": 0, "guitar": 24, "strings": 48, "trumpet": 56, "organ": 19, "marimba": 12}
"""Instrument family to General MIDI program (numbered from 0)."""

MODES = ("major", "minor")
BEAT_FRAMES = (50, 46, 42, 40, 38, 36, 34, 32, 30, 28, 26, 24, 22, 20)
"""Frames a beat: even, so that half beats are whole frames too. Any tempo from 60 to 150 is within 5% of one."""
TEMPI_BPM = tuple(round(60.0 / (frames * FRAME_SECONDS)) for frames in BEAT_FRAMES)
"""The same in beats a minute, to the nearest."""
NOTE_NAMES = {0: "C", 2: "D", 5: "F", 7: "G", 9: "A"}
"""Pitch class of each key to its name."""
MOODS = {
    "major": ("happy", "cheerful", "bright", "joyful", "warm", "hopeful"),
    "minor": ("sad", "dark", "melancholic", "gloomy", "tense", "wistful"),
}
PATTERNS = ("melody", "chords", "arpeggio")

_LOWEST_LEAD = {"piano": 60, "guitar": 52, "strings": 57, "trumpet": 60, "organ": 57, "marimba": 60}
_LOWEST_BASS = {"piano": 36, "guitar": 40, "strings": 40, "trumpet": 36, "organ": 36, "marimba": 41}
_BASS_PROGRAMS = {"strings": 45, "trumpet": 58}  # plucked strings and a tuba: bowed ones begin too softly for a beat
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_PROGRESSIONS = ((0, 3, 4, 0), (0, 3, 0, 4), (0, 4, 3, 0), (0, 0, 3, 4), (0, 4, 0, 3))
_RHYTHMS = ((1.0, 1.0, 1.0, 1.0), (0.5, 0.5, 1.0, 0.5, 0.5, 1.0), (1.5, 0.5, 1.0, 1.0), (1.0, 0.5, 0.5, 2.0))
_ARPEGGIO = (0, 1, 2, 3, 2, 1, 0, 1)
_LOUD, _BASS, _SOFT, _UNDER = 100, 92, 84, 58
"""Velocities."""


@dataclass(frozen=True)
class Note:
    """One sounding note: channel 0 is the lead, 1 the bass, 9 the drums (General MIDI)."""

    start_seconds: float
    end_seconds: float
    channel: int
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Piece:
    """The attributes of a piece; its notes and its captions follow from them."""

    instrument: str
    mode: str
    root: int
    beat_frames: int
    pattern: str
    drums: bool
    mood: str
    seed: int

    @staticmethod
    def draw(seed: int) -> Piece:
        """Draw a piece whose attributes are uniform over their values; two in five have drums."""
        random = Random(seed)
        instrument = random.choice(tuple(INSTRUMENTS))
        mode = random.choice(MODES)
        return Piece(
            instrument=instrument,
            mode=mode,
            root=random.choice(tuple(NOTE_NAMES)),
            beat_frames=random.choice(BEAT_FRAMES),
            pattern=random.choice(PATTERNS),
            drums=random.random() < 0.4,
            mood=random.choice(MOODS[mode]),
            seed=seed,
        )

    @property
    def tempo_bpm(self) -> int:
        """The tempo in beats a minute, to the nearest."""
        return TEMPI_BPM[BEAT_FRAMES.index(self.beat_frames)]

    @property
    def beat_seconds(self) -> float:
        """Length of a beat in seconds."""
        return self.beat_frames * FRAME_SECONDS

    @property
    def program(self) -> int:
        """The General MIDI program of what leads."""
        return INSTRUMENTS[self.instrument]

    @property
    def bass_program(self) -> int:
        """The General MIDI program of what plays the bass."""
        return _BASS_PROGRAMS.get(self.instrument, self.program)

    def notes(self, seconds: float = CLIP_SECONDS) -> list[Note]:
        """Return the notes of the first ``seconds`` of the piece, in order of time."""
        random = Random(self.seed + 1)
        rhythm = random.choice(_RHYTHMS)
        cycle: list[Note] = []
        for bar, degree in enumerate(random.choice(_PROGRESSIONS)):
            cycle += self._lead(4.0 * bar, degree, rhythm, random) + self._rhythm_section(4.0 * bar, degree)
        turns = int(seconds / (16 * self.beat_seconds)) + 1
        notes = [self._later(note, turn * 16 * self.beat_seconds, seconds) for turn in range(turns) for note in cycle]
        return sorted((n for n in notes if n.start_seconds < seconds - 0.05), key=lambda n: n.start_seconds)

    def _lead(self, bar: float, degree: int, rhythm: tuple[float, ...], random: Random) -> list[Note]:
        chord = [self._pitch(degree + step) for step in (0, 2, 4)]
        if self.pattern == "chords":
            return [self._note(bar + beat, 0.9, 0, pitch, _SOFT) for beat in range(4) for pitch in chord]
        if self.pattern == "arpeggio":
            tones = (*chord, chord[0] + 12)
            return [self._note(bar + i / 2, 0.5, 0, tones[tone], _LOUD) for i, tone in enumerate(_ARPEGGIO)]
        # Soft chords under the melody say which mode it is.
        notes = [self._note(bar + beat, 1.9, 0, pitch - 12, _UNDER) for beat in (0, 2) for pitch in chord]
        position = 0.0
        for length in rhythm:
            # Strong beats land on the chord, weak ones on the scale, near it.
            strong = position in (0.0, 2.0)
            pitch = random.choice(chord) if strong else self._pitch(degree + random.choice((1, 2, 3, 4)))
            notes.append(self._note(bar + position, length, 0, pitch, _LOUD))
            position += length
        return notes

    def _rhythm_section(self, bar: float, degree: int) -> list[Note]:
        notes = []
        lowest = _LOWEST_BASS[self.instrument]
        pitch = lowest + (self._pitch(degree) - lowest) % 12
        for beat in range(4):
            notes.append(self._note(bar + beat, 0.6, 1, pitch, _BASS))
            if self.drums:
                notes.append(self._note(bar + beat, 0.2, 9, 38 if beat % 2 else 36, _SOFT))
                notes.append(self._note(bar + beat + 0.5, 0.2, 9, 42, _UNDER))
        return notes

    def _pitch(self, degree: int) -> int:
        """Return the MIDI pitch of a degree of the scale, counted from 0."""
        lowest = _LOWEST_LEAD[self.instrument]
        base = lowest + (self.root - lowest) % 12
        return base + 12 * (degree // 7) + _SCALES[self.mode][degree % 7]

    def _note(self, start: float, length: float, channel: int, pitch: int, velocity: int) -> Note:
        """Return a note that begins at a beat and ends, so many beats later, a frame before what follows it."""
        begin, end = round(start * self.beat_frames), round((start + length) * self.beat_frames) - 1
        return Note(begin * FRAME_SECONDS, end * FRAME_SECONDS, channel, pitch, velocity)

    @staticmethod
    def _later(note: Note, seconds: float, last: float) -> Note:
        end = min(note.end_seconds + seconds, last - FRAME_SECONDS)
        return replace(note, start_seconds=note.start_seconds + seconds, end_seconds=end)
