"""The embedded models' text encoder: a small T5 in the layout that AudioCraft loads, with its own vocabulary.

The sentencepiece vocabulary holds every word of the captions as a whole, words of general English from a list, and
every printable ASCII character as a piece of its own, so that an unknown word falls apart into pieces instead of
becoming ``<unk>``; ``nmt_nfkc_cf`` folds case. The first vectors of neighbouring numbers are alike: what is learned of
"120 bpm" then holds for 119 nearly as well, which no caption may have named.

Before any audio, ``teach`` makes it tell from a caption what the caption says. A language model learns very slowly from
audio alone what "100 bpm" is: after three beats it hears the tempo, and the text has little left to explain.
"""

from __future__ import annotations

import io
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2
from torch import nn
from torch.nn import functional
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from . import captions
from .compose import Piece

VOCABULARY_SIZE = 640
_UNSEEN_WORDS = (
    "a recording of, some, the, and, or, for, by, played, performed, gentle, soft, loud, ambient, background, "
    "intro, outro, theme, song, track, loop, game, film, movie, night, morning, rain, sea, forest, city, dance, "
    "rock, pop, jazz, folk, classical, electronic, baroque, acoustic, solo, slowly, quickly, very, not too, "
    "beautiful, epic, relaxing, energetic, dreamy, simple, complex, short, long, high, low, deep, bright"
)
_NUMBER_WIDTH = 6.0
"""How far apart, in beats a minute, two numbers are whose first vectors have little in common."""


def sentences(count: int) -> list[str]:
    """Return ``count`` captions of drawn pieces."""
    return [captions.caption(Piece.draw(2 * i), i) for i in range(count)]


def build(folder: Path, d_model: int = 128, words: Sequence[str] = (), lines: Sequence[str] = ()) -> None:
    """Write an untrained text encoder: tokenizer.json, config.json, model weights, spiece.model.

    Args:
        words: each is a piece of its own; those of the music captions by default.
        lines: the text that the other pieces are learned from; captions of music by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    words, lines = list(words) or captions.words(), list(lines) or sentences(4000)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*lines, *(_UNSEEN_WORDS.split(", ") * (len(lines) // 200 + 1))]),
        model_writer=model,
        vocab_size=VOCABULARY_SIZE,
        model_type="unigram",
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc_cf",
        user_defined_symbols=[f"▁{word}" for word in words],
        required_chars=string.digits + string.ascii_lowercase + string.punctuation,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(_plain(model.getvalue()))
    tokenizer = T5Tokenizer.from_pretrained(folder, extra_ids=0)
    tokenizer.save_pretrained(folder)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=d_model, d_kv=32, d_ff=256, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, decoder_start_token_id=0,
    )  # fmt: skip
    encoder = T5EncoderModel(config)
    numbers = {int(word): tokenizer.convert_tokens_to_ids(f"▁{word}") for word in words if word.isdigit()}
    if numbers:
        _liken(encoder.shared.weight, numbers)
    encoder.save_pretrained(folder)


def teach(
    folder: Path,
    described: Callable[[int], tuple[str, Sequence[int]]],
    sizes: Sequence[int],
    steps: int = 1500,
    batch: int = 64,
) -> float:
    """Train the encoder in a folder so that the vector of every token tells each attribute; return the last loss.

    Args:
        described: from a number to a caption, and the class of each attribute of what it describes.
        sizes: how many classes each attribute has.
    """
    tokenizer, encoder = T5Tokenizer.from_pretrained(folder), T5EncoderModel.from_pretrained(folder)
    heads = nn.Linear(encoder.config.d_model, sum(sizes))
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    loss = torch.zeros(())
    for step in range(steps):
        texts, classes = zip(*(described(step * batch + i) for i in range(batch)), strict=True)
        tokens = tokenizer(list(texts), return_tensors="pt", padding=True)
        mask = tokens["attention_mask"].bool()
        scores = heads(encoder(**tokens).last_hidden_state)[mask]
        targets = torch.tensor(classes)[:, None].expand(-1, mask.shape[1], -1)[mask]
        parts = torch.split(scores, list(sizes), dim=-1)
        loss = torch.stack([functional.cross_entropy(part, targets[:, i]) for i, part in enumerate(parts)]).sum()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
    encoder.save_pretrained(folder)
    return float(loss.detach())


def _plain(model: bytes) -> bytes:
    """Make ordinary pieces of the words: transformers would take the others for special tokens."""
    proto: Any = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    for piece in proto.pieces:
        if piece.type == piece.USER_DEFINED:
            piece.type, piece.score = piece.NORMAL, 0.0
    return bytes(proto.SerializeToString())


@torch.no_grad()
def _liken(vectors: torch.Tensor, numbers: dict[int, int]) -> None:
    """Draw the rows ``[V, D]`` of numbers from a smooth random function of the number, of the same spread."""
    values = torch.tensor(list(numbers), dtype=torch.float32)
    centres = torch.arange(float(values.min()) - 12, float(values.max()) + 12, 2.0)
    weights = torch.exp(-0.5 * ((values[:, None] - centres) / _NUMBER_WIDTH).square())
    smooth = weights @ torch.randn(len(centres), vectors.shape[1])
    vectors[list(numbers.values())] = smooth / weights.norm(dim=1, keepdim=True)
