"""Composes short pieces and says in words what they are.

A piece is drawn from a handful of audible attributes (instrument, mood, tempo, key, mode, pattern,
drums). The same attributes make its notes and its caption, so a caption never lies about its piece.
Notes are General MIDI events in seconds; ``render.py`` turns them into sound.
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

_LOWEST_NOTE = {"piano": 57, "guitar": 52, "strings": 57, "trumpet": 60, "organ": 57, "marimba": 60}
_NOTE_NAMES = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 3, 4, 0), (0, 5, 3, 4), (0, 3, 0, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 4, 0), (0, 5, 3, 4), (0, 6, 5, 4)),
}
_MOODS = {
    "major": ("happy", "cheerful", "bright", "joyful", "warm", "hopeful"),
    "minor": ("sad", "dark", "melancholic", "gloomy", "tense", "wistful"),
}
_PATTERNS = {
    "melody": ("melody", "tune", "solo"),
    "chords": ("chords", "block chords", "chord piece"),
    "arpeggio": ("arpeggio", "arpeggios", "broken chords"),
}
_SYNONYMS = {
    "piano": ("piano", "grand piano", "piano"),
    "guitar": ("guitar", "acoustic guitar", "guitar"),
    "strings": ("strings", "string orchestra", "violins", "strings"),
    "trumpet": ("trumpet", "brass trumpet", "trumpet"),
    "organ": ("organ", "church organ", "organ"),
    "marimba": ("marimba", "wooden marimba", "mallets", "marimba"),
}


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
        """Draw a piece whose attributes are uniform over their values."""
        random = Random(seed)
        instrument = random.choice(tuple(INSTRUMENTS))
        mode = random.choice(("major", "minor"))
        return Piece(
            instrument=instrument,
            program=random.choice(INSTRUMENTS[instrument]),
            mode=mode,
            root=random.randrange(12),
            tempo_bpm=random.randrange(60, 161, 5),
            pattern=random.choice(tuple(_PATTERNS)),
            drums=random.random() < 0.3,
            mood=random.choice(_MOODS[mode]),
            seed=seed,
        )

    def notes(self) -> list[Note]:
        """Return the notes of the piece, CLIP_SECONDS long, in order of time."""
        random = Random(self.seed + 1)
        beat = 60.0 / self.tempo_bpm
        progression = random.choice(_PROGRESSIONS[self.mode])
        notes: list[Note] = []
        rhythm = random.choice(((1.0, 1.0, 1.0, 1.0), (0.5, 0.5, 1.0, 0.5, 0.5, 1.0), (1.5, 0.5, 1.0, 1.0)))
        walk = 7
        for bar in range(int(CLIP_SECONDS / (4 * beat)) + 1):
            start = bar * 4 * beat
            degree = progression[bar % len(progression)]
            chord = [self._pitch(degree + step) for step in (0, 2, 4)]
            if self.pattern == "chords":
                for position in (0.0, 2.0) if self.tempo_bpm > 110 else (0.0, 1.0, 2.0, 3.0):
                    length = 1.9 if self.tempo_bpm > 110 else 0.95
                    notes += [self._lead(start, position, length, beat, pitch, random) for pitch in chord]
            elif self.pattern == "arpeggio":
                for index in range(8):
                    pitch = (*chord, chord[0] + 12)[(0, 1, 2, 3, 2, 1, 0, 1)[index]]
                    notes.append(self._lead(start, index / 2, 0.48, beat, pitch, random))
            else:
                position = 0.0
                for length in rhythm:
                    # Strong beats land on the chord, weak ones walk along the scale.
                    step = random.choice((-2, -1, -1, 1, 1, 2))
                    walk = max(0, min(12, walk + step))
                    strong = position in (0.0, 2.0)
                    pitch = random.choice(chord) + random.choice((0, 12)) if strong else self._pitch(walk)
                    notes.append(self._lead(start, position, length * 0.95, beat, pitch, random))
                    position += length
            for index in range(4):
                low = 36 + (self._pitch(degree) % 12)
                notes.append(self._note(start, index, 0.8, beat, 1, low, 62 if index else 74))
                if self.drums:
                    notes.append(self._note(start, index, 0.2, beat, 9, 36 if index % 2 == 0 else 38, 72))
                    notes.append(self._note(start, index + 0.5, 0.2, beat, 9, 42, 50))
        return sorted((n for n in notes if n.start_seconds < CLIP_SECONDS - 0.05), key=lambda n: n.start_seconds)

    def caption(self, seed: int) -> str:
        """Return one of many ways to say what the piece is; attributes are left out at random."""
        random = Random(seed)
        instrument = random.choice(_SYNONYMS[self.instrument])
        tempo_words = {0: ("slow", "calm"), 1: ("medium tempo", "moderate"), 2: ("fast", "quick", "lively")}
        tempo_word = random.choice(tempo_words[0 if self.tempo_bpm < 90 else 1 if self.tempo_bpm < 125 else 2])
        adjectives = [word for word, p in ((tempo_word, 0.7), (self.mood, 0.7)) if random.random() < p]
        random.shuffle(adjectives)
        pattern = random.choice(_PATTERNS[self.pattern])
        nouns = [
            f"{instrument} {pattern}",
            f"{instrument} piece",
            f"{instrument} music",
            f"{instrument}",
            f"{pattern} on {instrument}",
        ]
        text = ", ".join(adjectives) if random.random() < 0.3 else " ".join(adjectives)
        text = f"{text} {random.choice(nouns)}".strip()
        if random.random() < 0.4:
            text = ("an " if text[0] in "aeiou" else "a ") + text
        tail = []
        if random.random() < 0.4:
            tail.append(f"in {_NOTE_NAMES[self.root]} {self.mode}")
        elif random.random() < 0.3:
            tail.append(f"in a {self.mode} key")
        if self.drums and random.random() < 0.8:
            tail.append(random.choice(("with drums", "with a beat")))
        if random.random() < 0.5:
            tail.append(random.choice((f"{self.tempo_bpm} bpm", f"at {self.tempo_bpm} bpm")))
        random.shuffle(tail)
        joint = random.choice((" ", ", "))
        return joint.join([text, *tail])

    def _pitch(self, degree: int) -> int:
        scale = _SCALES[self.mode]
        base = _LOWEST_NOTE[self.instrument] + (self.root - _LOWEST_NOTE[self.instrument]) % 12
        return base + 12 * (degree // 7) + scale[degree % 7] - (12 if degree >= 5 and self.pattern != "melody" else 0)

    def _lead(self, start: float, position: float, length: float, beat: float, pitch: int, random: Random) -> Note:
        return self._note(start, position, length, beat, 0, pitch, random.randint(84, 104))

    @staticmethod
    def _note(
        start: float, position: float, length: float, beat: float, channel: int, pitch: int, velocity: int
    ) -> Note:
        begin = start + position * beat
        return Note(begin, min(begin + length * beat, CLIP_SECONDS - 0.02), channel, pitch, velocity)
