"""The embedded models' text encoder: a small T5 in the layout that AudioCraft loads, with its own vocabulary.

The sentencepiece model is trained on many captions of composed pieces. Every printable ASCII character is a
piece of its own, so that an unknown word falls apart into letters instead of becoming ``<unk>``; ``nmt_nfkc_cf``
folds case.
"""

from __future__ import annotations

import io
import string
from pathlib import Path

import sentencepiece
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from .compose import Piece

VOCABULARY_SIZE = 400
_UNSEEN_WORDS = (
    "a recording of, some, the, and, or, for, by, played, performed, gentle, soft, loud, ambient, background, "
    "intro, outro, theme, song, track, loop, game, film, movie, night, morning, rain, sea, forest, city, dance, "
    "rock, pop, jazz, folk, classical, electronic, baroque, acoustic, solo, slowly, quickly, very, not too, "
    "beautiful, epic, relaxing, energetic, dreamy, simple, complex, short, long, high, low, deep, bright"
)


def captions(count: int) -> list[str]:
    """Return ``count`` captions of drawn pieces, and the unseen words between them."""
    drawn = [Piece.draw(2 * i).caption(i) for i in range(count)]
    return [*drawn, *(_UNSEEN_WORDS.split(", ") * (count // 200))]


def build(folder: Path, d_model: int = 128) -> None:
    """Write an untrained text encoder: tokenizer.json, config.json, model weights, spiece.model."""
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions(20_000)),
        model_writer=model,
        vocab_size=VOCABULARY_SIZE,
        model_type="unigram",
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc_cf",
        user_defined_symbols=[],
        required_chars=string.digits + string.ascii_lowercase + string.punctuation,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer = T5Tokenizer.from_pretrained(folder, extra_ids=0)
    tokenizer.save_pretrained(folder)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=d_model, d_kv=32, d_ff=256, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, decoder_start_token_id=0,
    )  # fmt: skip
    T5EncoderModel(config).save_pretrained(folder)
