"""Composes short pieces of music.

A piece is drawn from a handful of audible attributes: instrument, mood, tempo, key, mode, pattern, drums. The same
attributes make its notes and its captions (``captions.py``), so a caption never lies about its piece. Notes are
General MIDI events in seconds; ``render.py`` turns them into sound.

Each attribute is made easy to hear, because a small model must learn it from hours, not years, of audio: a bass note
falls on every beat, chords are those of the first, fourth and fifth degree (all major, or all minor), and what
accompanies an instrument is of its own family.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

CLIP_SECONDS = 20.0
"""Length of a composed piece in seconds: the longest segment that the embedded model is trained on."""

INSTRUMENTS: dict[str, tuple[int, ...]] = {
    "piano": (0, 1),
    "guitar": (24, 25),
    "strings": (48, 49),
    "trumpet": (56,),
    "organ": (16, 19),
    "marimba": (12,),
}
"""Instrument family to General MIDI programs (numbered from 0)."""

MODES = ("major", "minor")
TEMPI_BPM = tuple(range(60, 161, 5))
ROOTS = (0, 2, 4, 5, 7, 9, 11)
"""Pitch classes of the keys: C, D, E, F, G, A, B."""
NOTE_NAMES = {0: "C", 2: "D", 4: "E", 5: "F", 7: "G", 9: "A", 11: "B"}
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
    program: int
    mode: str
    root: int
    tempo_bpm: int
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
            program=random.choice(INSTRUMENTS[instrument]),
            mode=mode,
            root=random.choice(ROOTS),
            tempo_bpm=random.choice(TEMPI_BPM),
            pattern=random.choice(PATTERNS),
            drums=random.random() < 0.4,
            mood=random.choice(MOODS[mode]),
            seed=seed,
        )

    @property
    def bass_program(self) -> int:
        """The General MIDI program of what plays the bass."""
        return _BASS_PROGRAMS.get(self.instrument, self.program)

    def notes(self) -> list[Note]:
        """Return the notes of the piece, CLIP_SECONDS long, in order of time."""
        random = Random(self.seed + 1)
        beat = 60.0 / self.tempo_bpm
        progression, rhythm = random.choice(_PROGRESSIONS), random.choice(_RHYTHMS)
        notes: list[Note] = []
        walk = 4
        for bar in range(int(CLIP_SECONDS / (4 * beat)) + 1):
            start, degree = bar * 4 * beat, progression[bar % len(progression)]
            chord = [self._pitch(degree + step) for step in (0, 2, 4)]
            if self.pattern == "chords":
                for index in range(4):
                    notes += [self._lead(start, index, 0.9, beat, pitch, random) for pitch in chord]
            elif self.pattern == "arpeggio":
                tones = (*chord, chord[0] + 12)
                notes += [self._lead(start, i / 2, 0.48, beat, tones[t], random) for i, t in enumerate(_ARPEGGIO)]
            else:
                for index in (0, 2):  # soft, under the melody: they say which mode it is
                    notes += [self._note(start, index, 1.9, beat, 0, pitch - 12, 58) for pitch in chord]
                position = 0.0
                for length in rhythm:
                    # Strong beats land on the chord, weak ones walk along the scale.
                    walk = max(0, min(9, walk + random.choice((-2, -1, -1, 1, 1, 2))))
                    pitch = random.choice(chord) if position in (0.0, 2.0) else self._pitch(walk)
                    notes.append(self._lead(start, position, length * 0.95, beat, pitch, random))
                    position += length
            notes += self._rhythm_section(start, beat, degree)
        return sorted((n for n in notes if n.start_seconds < CLIP_SECONDS - 0.05), key=lambda n: n.start_seconds)

    def _rhythm_section(self, start: float, beat: float, degree: int) -> list[Note]:
        notes = []
        lowest = _LOWEST_BASS[self.instrument]
        pitch = lowest + (self._pitch(degree) - lowest) % 12
        for index in range(4):
            notes.append(self._note(start, index, 0.6, beat, 1, pitch, 86 if index else 100))
            if self.drums:
                notes.append(self._note(start, index, 0.2, beat, 9, 38 if index % 2 else 36, 84))
                notes.append(self._note(start, index + 0.5, 0.2, beat, 9, 42, 50))
        return notes

    def _pitch(self, degree: int) -> int:
        """Return the MIDI pitch of a degree of the scale, counted from 0."""
        lowest = _LOWEST_LEAD[self.instrument]
        base = lowest + (self.root - lowest) % 12
        return base + 12 * (degree // 7) + _SCALES[self.mode][degree % 7]

    def _lead(self, start: float, position: float, length: float, beat: float, pitch: int, random: Random) -> Note:
        return self._note(start, position, length, beat, 0, pitch, random.randint(84, 104))

    @staticmethod
    def _note(
        start: float, position: float, length: float, beat: float, channel: int, pitch: int, velocity: int
    ) -> Note:
        begin = start + position * beat
        return Note(begin, min(begin + length * beat, CLIP_SECONDS - 0.02), channel, pitch, velocity)
