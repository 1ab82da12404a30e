"""The composer, the captions and the vocabulary of the embedded music model."""

from __future__ import annotations

import shutil
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5EncoderModel, T5Tokenizer

from services.models.tiny import captions, text_encoder
from services.models.tiny.compose import CLIP_SECONDS, FRAME_SECONDS, INSTRUMENTS, MODES, NOTE_NAMES, TEMPI_BPM, Piece

SCALES = {"major": {0, 2, 4, 5, 7, 9, 11}, "minor": {0, 2, 3, 5, 7, 8, 10}}
PIECES = [Piece.draw(seed) for seed in range(120)]


def test_notes_are_on_the_scale_and_the_beat() -> None:
    for piece in PIECES:
        beat = piece.beat_seconds
        notes = piece.notes()
        assert all(0.0 <= note.start_seconds < note.end_seconds <= CLIP_SECONDS for note in notes)
        pitched = [note for note in notes if note.channel != 9]
        assert {(note.pitch - piece.root) % 12 for note in pitched} <= SCALES[piece.mode]
        positions = np.array([note.start_seconds / beat for note in notes])
        assert np.abs(positions * 2 - np.round(positions * 2)).max() < 1e-6
        bass = [note.start_seconds / beat for note in notes if note.channel == 1]
        assert np.allclose(bass, np.arange(len(bass))) and len(bass) >= int((CLIP_SECONDS - 0.05) / beat)
        assert any(note.channel == 9 for note in notes) == piece.drums


def test_notes_begin_and_end_with_the_codecs_frames_and_the_tune_comes_again() -> None:
    for piece in PIECES:
        notes = piece.notes()
        times = np.array([[note.start_seconds, note.end_seconds] for note in notes]) / FRAME_SECONDS
        assert np.abs(times - np.round(times)).max() < 1e-6
        cycle = 16 * piece.beat_seconds
        rounded = [(round(n.start_seconds, 3), n.channel, n.pitch, n.velocity) for n in notes]
        again = {(round(start - cycle, 3), *rest) for start, *rest in rounded if start >= cycle - 1e-6}
        assert again <= set(rounded)


def test_any_tempo_between_is_near_one_of_the_grid() -> None:
    for asked in range(60, 151):
        assert min(abs(tempo - asked) / asked for tempo in TEMPI_BPM) < 0.05


def test_the_third_of_the_first_chord_says_which_mode_it_is() -> None:
    for piece in PIECES:
        bar = 4 * piece.beat_seconds - 1e-6
        pitched = [note for note in piece.notes() if note.channel != 9]
        first = {(note.pitch - piece.root) % 12 for note in pitched if note.start_seconds < bar}
        assert (4 in first) == (piece.mode == "major")
        assert (3 in first) == (piece.mode == "minor")


def test_drawing_is_reproducible_and_covers_every_value() -> None:
    pieces = [Piece.draw(seed) for seed in range(600)]
    assert pieces[:20] == [Piece.draw(seed) for seed in range(20)]
    assert pieces[3].notes() == Piece.draw(3).notes()
    assert {piece.instrument for piece in pieces} == set(INSTRUMENTS)
    assert {piece.tempo_bpm for piece in pieces} == set(TEMPI_BPM)
    assert {(piece.root, piece.mode) for piece in pieces} == {(root, mode) for root in NOTE_NAMES for mode in MODES}


def test_a_complete_caption_names_what_is_measured() -> None:
    for piece in PIECES:
        for seed in range(5):
            text = captions.caption(piece, seed, complete=True)
            assert any(word in text for word in captions.INSTRUMENT_WORDS[piece.instrument])
            assert piece.mode in text and ({*MODES} - {piece.mode}).pop() not in text
            numbers = [int(word) for word in text.replace(",", " ").split() if word.isdigit()]
            assert len(numbers) == 1 and abs(numbers[0] / piece.tempo_bpm - 1) <= 0.04


def test_captions_of_one_piece_differ_and_leave_things_out() -> None:
    texts = {captions.caption(PIECES[0], seed) for seed in range(200)}
    assert len(texts) > 150
    assert any("bpm" not in text for text in texts) and any(PIECES[0].mode not in text for text in texts)
    assert captions.caption(PIECES[0], 7) == captions.caption(PIECES[0], 7)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text_encoder")
    text_encoder.build(folder, d_model=32)
    return folder


def test_words_of_captions_are_whole_pieces(encoder: Path) -> None:
    tokenizer = T5Tokenizer.from_pretrained(encoder)
    for word in captions.words():
        assert tokenizer.tokenize(word) == [f"▁{word}"]
    assert tokenizer.tokenize("Sad PIANO, 120 BPM") == ["▁sad", "▁piano", ",", "▁120", "▁bpm"]


def test_no_plain_english_is_unknown(encoder: Path) -> None:
    tokenizer = T5Tokenizer.from_pretrained(encoder)
    for text in ("A xylophone? Quietly zigzagging -- 'jazz' & 3/4 time!", "", string.printable, "organic " * 40):
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids


def test_the_encoder_learns_what_captions_say(encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder, tmp_path / "taught")
    pieces = [piece for piece in PIECES if piece.instrument in ("piano", "organ")]

    def described(number: int) -> tuple[str, tuple[int]]:
        piece = pieces[number % len(pieces)]
        return captions.caption(piece, number, complete=True), (int(piece.instrument == "organ"),)

    assert text_encoder.teach(tmp_path / "taught", described, (2,), steps=40, batch=16) < 0.2
    before, after = (T5EncoderModel.from_pretrained(folder).shared.weight for folder in (encoder, tmp_path / "taught"))
    assert before.shape == after.shape and not torch.equal(before, after)


def test_neighbouring_numbers_begin_alike(encoder: Path) -> None:
    tokenizer = T5Tokenizer.from_pretrained(encoder)
    vectors = T5EncoderModel.from_pretrained(encoder).shared.weight.detach()

    def likeness(one: int, other: int) -> float:
        first, second = (vectors[tokenizer.convert_tokens_to_ids(f"▁{number}")] for number in (one, other))
        return float(first @ second / first.norm() / second.norm())

    assert likeness(100, 101) > 0.9 and likeness(100, 112) < 0.75
    assert abs(likeness(70, 150)) < 0.6
