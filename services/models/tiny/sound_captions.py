"""Says in words what a sound is, in many wordings."""

from __future__ import annotations

from random import Random

from .sounds import Sound

NAMES: dict[tuple[str, str], tuple[str, ...]] = {
    ("rain", "light"): ("light rain", "drizzle", "a few raindrops", "gentle rain"),
    ("rain", "steady"): ("steady rain", "rain falling", "rain", "rainfall"),
    ("rain", "heavy"): ("heavy rain", "pouring rain", "a downpour", "a rainstorm"),
    ("wind", "soft"): ("a soft wind", "a gentle breeze", "a light wind"),
    ("wind", "strong"): ("strong wind", "wind blowing", "wind", "gusts of wind"),
    ("wind", "howling"): ("howling wind", "wind howling", "whistling wind"),
    ("sea", "calm"): ("calm sea", "ocean waves", "waves on a beach", "gentle sea waves"),
    ("sea", "rough"): ("rough sea", "waves crashing", "the sea in a storm", "big ocean waves"),
    ("birds", "one"): ("a bird singing", "a bird chirping", "birdsong of one bird", "a single bird"),
    ("birds", "several"): ("birds singing", "birds chirping", "several birds", "birdsong in a forest"),
    ("footsteps", "gravel"): ("footsteps on gravel", "someone walking on gravel", "steps on stones"),
    ("footsteps", "wood"): ("footsteps on a wooden floor", "someone walking on wood", "footsteps on wood"),
    ("footsteps", "snow"): ("footsteps in snow", "someone walking in snow", "steps in the snow"),
    ("engine", "idling"): ("an engine idling", "a car engine idling", "a truck engine", "a car engine"),
    ("engine", "revving"): ("an engine revving", "a car accelerating", "a revving car engine"),
    ("engine", "motorbike"): ("a motorbike engine", "a motorcycle", "a small engine running"),
    ("bell", "church"): ("a church bell", "church bells ringing", "a large bell", "a bell tolling"),
    ("bell", "small"): ("a small bell", "a hand bell ringing", "a bell ringing", "a little bell"),
    ("drums", "kit"): ("drums", "a drum kit", "drum hits", "someone playing drums"),
    ("drums", "tabla"): ("tabla", "tabla drums", "hand drums", "indian drums"),
}
_SLOW, _FAST = ("slow", "slowly"), ("fast", "quick", "quickly")
_PACED = ("sea", "footsteps", "bell", "drums")
_OPENINGS = ("", "", "", "", "the sound of", "a recording of", "sound effect:", "we hear")
_DISTANT = ("in the distance", "far away", "distant", "from afar")
_FILLERS = ("outside", "at night", "high quality", "for a game", "in the morning", "recorded live", "background")


def caption(sound: Sound, seed: int) -> str:
    """Return one of many ways to say what a sound is; the seed, any integer, chooses."""
    random = Random(seed)
    text = random.choice(NAMES[sound.kind, sound.detail])
    opening = random.choice(_OPENINGS)
    if opening:
        text = f"{opening} {text}"
    tail = []
    if sound.kind in _PACED and random.random() < 0.4:
        tail.append(random.choice(_SLOW if sound.pace == "slow" else _FAST))
    if sound.distant and random.random() < 0.8:
        tail.append(random.choice(_DISTANT))
    if random.random() < 0.2:
        tail.append(random.choice(_FILLERS))
    random.shuffle(tail)
    return random.choice((", ", " ")).join([text, *tail])


def words() -> list[str]:
    """Return every word that captions of sounds are made of."""
    phrases = [*_SLOW, *_FAST, *_OPENINGS, *_DISTANT, *_FILLERS, *(name for names in NAMES.values() for name in names)]
    found: set[str] = set()
    for phrase in phrases:
        found.update(phrase.lower().replace(":", " ").split())
    return sorted(found)
