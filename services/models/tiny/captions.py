"""Says in words what a composed piece is, in many wordings.

Attributes are left out at random, so that a model follows what is said and is free in what is not. Words that say
nothing of the music stand between them now and then: a model so learns to pass over them.
"""

from __future__ import annotations

from random import Random

from .compose import MODES, MOODS, NOTE_NAMES, TEMPI_BPM, Piece

TEMPO_WORDS = {
    "slow": ("slow", "calm", "slow tempo", "unhurried"),
    "medium": ("medium tempo", "moderate", "mid tempo", "walking pace"),
    "fast": ("fast", "quick", "lively", "fast tempo"),
}
_PATTERN_WORDS = {
    "melody": ("melody", "tune", "solo", "melody with soft chords"),
    "chords": ("chords", "block chords", "chord piece", "chord progression"),
    "arpeggio": ("arpeggio", "arpeggios", "broken chords"),
}
INSTRUMENT_WORDS = {
    "piano": ("piano", "grand piano", "piano", "solo piano", "pianist"),
    "guitar": ("guitar", "acoustic guitar", "guitar", "strummed guitar", "guitarist"),
    "strings": ("strings", "string orchestra", "violins", "strings", "string section"),
    "trumpet": ("trumpet", "brass", "trumpet", "trumpets", "brass section"),
    "organ": ("organ", "church organ", "organ", "pipe organ", "organist"),
    "marimba": ("marimba", "wooden marimba", "mallets", "marimba", "marimba player"),
}
_DRUM_WORDS = ("with drums", "with a beat", "and drums", "with a drum kit", "with percussion")
_NO_DRUM_WORDS = ("without drums", "no drums", "no percussion")
_OPENINGS = (
    "",
    "",
    "",
    "",
    "",
    "some",
    "a recording of",
    "please play",
    "background music,",
    "an instrumental,",
    "short",
)
_FILLERS = (
    "for a film", "for a game", "for a podcast", "high quality", "a simple loop", "in a concert hall", "at night",
    "in the morning", "a folk theme", "classical style", "a pop song", "background music", "the intro of a song",
    "with feeling", "recorded live", "by the sea",
)  # fmt: skip
NUMBERS_BPM = tuple(range(TEMPI_BPM[0] - 10, TEMPI_BPM[-1] + 31))
"""The numbers that have a word of their own in the vocabulary."""


def caption(piece: Piece, seed: int, complete: bool = False) -> str:
    """Return one of many ways to say what a piece is.

    Args:
        seed: chooses the wording; any integer.
        complete: name the instrument, the tempo in beats a minute and the mode, whatever else is said.
    """
    random = Random(seed)

    def chance(probability: float) -> bool:
        return random.random() < probability

    adjectives = []
    if chance(0.5):
        adjectives.append(random.choice(TEMPO_WORDS[speed_of(piece.tempo_bpm)]))
    if chance(0.6):
        adjectives.append(piece.mood)
    random.shuffle(adjectives)
    noun = _noun(piece, random)
    text = (", " if chance(0.3) else " ").join([*adjectives, noun])
    opening = random.choice(_OPENINGS)
    if opening:
        text = f"{opening} {text}"
    elif chance(0.4):
        text = ("an " if text[0] in "aeiou" else "a ") + text
    tail = []
    if chance(0.7) or complete:
        tail.append(_mode(piece, random))
    if chance(0.75) or complete:
        tail.append(_tempo(piece, random))
    if piece.drums and chance(0.7):
        tail.append(random.choice(_DRUM_WORDS))
    if not piece.drums and chance(0.15):
        tail.append(random.choice(_NO_DRUM_WORDS))
    if chance(0.2):
        tail.append(random.choice(_FILLERS))
    random.shuffle(tail)
    return random.choice((" ", ", ", ", ")).join([text, *tail])


def speed_of(tempo_bpm: int) -> str:
    """Return which of TEMPO_WORDS fit a tempo."""
    return "slow" if tempo_bpm < 90 else "medium" if tempo_bpm < 125 else "fast"


def words() -> list[str]:
    """Return every word that captions of music are made of, and the numbers: the vocabulary has each as a whole."""
    found: set[str] = set()
    phrases = [*_OPENINGS, *_FILLERS, *_DRUM_WORDS, *_NO_DRUM_WORDS, *NOTE_NAMES.values(), *MODES]
    for group in (TEMPO_WORDS, _PATTERN_WORDS, INSTRUMENT_WORDS, MOODS):
        phrases += [phrase for options in group.values() for phrase in options]
    phrases += ["an at around about bpm beats per minute tempo key scale of on piece music in played by mood"]
    for phrase in phrases:
        found.update(phrase.lower().replace(",", " ").split())
    return sorted(found) + [str(number) for number in NUMBERS_BPM]


def _noun(piece: Piece, random: Random) -> str:
    instrument = random.choice(INSTRUMENT_WORDS[piece.instrument])
    pattern = random.choice(_PATTERN_WORDS[piece.pattern])
    return random.choice(
        (
            f"{instrument} {pattern}",
            f"{pattern} on {instrument}",
            f"{instrument} piece",
            f"{instrument} music",
            f"music played by {instrument}",
            instrument,
        )
    )


def _mode(piece: Piece, random: Random) -> str:
    key = f"{NOTE_NAMES[piece.root]} {piece.mode}"
    mode = piece.mode
    return random.choice((f"in {key}", f"in {key}", f"in the key of {key}", f"in a {mode} key", f"{mode} scale", mode))


def _tempo(piece: Piece, random: Random) -> str:
    bpm = piece.tempo_bpm
    if random.random() < 0.5:  # no tempo is drawn between those of the grid, but people ask for them
        bpm = round(bpm * random.uniform(0.97, 1.03))
    if random.random() < 0.15:
        return f"{random.choice(('around', 'about'))} {bpm} bpm"
    return random.choice((f"{bpm} bpm", f"{bpm} bpm", f"at {bpm} bpm", f"tempo {bpm}", f"{bpm} beats per minute"))
