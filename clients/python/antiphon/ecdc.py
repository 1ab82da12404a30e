"""`.ecdc` files: the codes of a neural codec, as the public `encodec` package reads and writes them.

    4 bytes   "ECDC"
    1 byte    version, 0
    4 bytes   length of the JSON that follows, big-endian
    JSON      "m" model, "al" samples of each channel, "nc" codebooks, "lm" whether the codes are entropy-coded
    then for each segment of the audio
    4 bytes   its loudness, a big-endian float, where the model normalises its input
    codes     frame by frame and codebook by codebook, packed as in `codes`, filled up to whole bytes

`encodec_24khz` has one segment, `encodec_48khz` one for each second, overlapping by a hundredth. Other models, which
`encodec` does not know, bear our name in "m" and their facts in "antiphon", an object that `encodec` passes over.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from antiphon.codes import pack_codes, unpack_codes
from antiphon.results import EncodedAudio
from antiphon.v1 import audio_pb2

__all__ = ["PUBLIC_FORMS", "EcdcFile", "EcdcForm", "EcdcSource", "read_ecdc", "write_ecdc"]

EcdcSource = bytes | str | os.PathLike[str] | BinaryIO
"""The bytes of a file, its path, or the file, opened for reading."""

_HEADER = struct.Struct("!4sBI")
_SCALE = struct.Struct("!f")
_MAX_META_BYTES = 1 << 20
_MAX_CODEBOOKS = 1024
_MAX_SAMPLES = 1 << 40


@dataclass(frozen=True)
class EcdcForm:
    """How a model's codes lie in a file."""

    sample_rate_hz: int
    channel_count: int
    frame_rate_hz: float
    bits_per_code: int
    segment_samples: int = 0
    """0 for one segment that is the whole piece."""
    stride_samples: int = 0
    is_normalising: bool = False

    def segments(self, sample_count: int) -> list[int]:
        """Samples of each segment."""
        if not self.segment_samples:
            return [sample_count]
        starts = range(0, sample_count, self.stride_samples)
        return [min(self.segment_samples, sample_count - start) for start in starts]

    def frames(self, samples: int) -> int:
        """Frames that a segment of so many samples has."""
        return -(-samples // round(self.sample_rate_hz / self.frame_rate_hz))

    def frames_that_encodec_reads(self, samples: int) -> int:
        """The same, as `encodec` computes it: by rounding, one too many for one whole length in twenty."""
        return math.ceil(samples / self.sample_rate_hz * self.frame_rate_hz)

    def frames_to_store(self, samples: int) -> int:
        """Frames that a file has for such a segment: no fewer than either of the two."""
        return max(self.frames(samples), self.frames_that_encodec_reads(samples))

    def segment_bytes(self, frames: int, codebooks: int) -> int:
        scale = _SCALE.size if self.is_normalising else 0
        return scale + (frames * codebooks * self.bits_per_code + 7) // 8


PUBLIC_FORMS = {
    "encodec_24khz": EcdcForm(24_000, 1, 75, 10),
    "encodec_48khz": EcdcForm(48_000, 2, 150, 10, 48_000, 47_520, is_normalising=True),
}


@dataclass(frozen=True, eq=False)
class EcdcFile:
    """A file, its codes still packed.

    Attributes:
        model: What "m" says: "encodec_24khz", "encodec_48khz", or the name of another model.
        sample_count: Samples of each channel that the codes stand for.
        is_entropy_coded: Whether `payload` can only be read with the model's language model.
        payload: All that follows the header.
        served_model: The name by which the server that encoded knows the model; empty in the files of others.
    """

    model: str
    sample_count: int
    codebook_count: int
    is_entropy_coded: bool
    payload: bytes
    form: EcdcForm
    served_model: str = ""

    @classmethod
    def pack(cls, encoded: EncodedAudio) -> Self:
        """Packs what `encode` returned.

        Raises:
            ValueError: The codes are not those of `sample_count` samples, or have loudnesses and are not of the
                form of EnCodec 48 kHz.
        """
        name, form = form_of(encoded)
        if form.is_normalising and len(encoded.scales) != encoded.codes.shape[1]:
            raise ValueError(f"scales: {len(encoded.scales)} for {encoded.codes.shape[1]} frames")
        segments = form.segments(encoded.sample_count)
        if sum(map(form.frames, segments)) != encoded.codes.shape[1]:
            raise ValueError(f"codes: {encoded.codes.shape[1]} frames do not fit {encoded.sample_count} samples")
        parts, first = [], 0
        for samples in segments:
            frames = form.frames(samples)
            codes = encoded.codes[:, first : first + frames]
            if form.is_normalising:
                parts.append(_SCALE.pack(encoded.scales[first]))
            if name in PUBLIC_FORMS and (missing := form.frames_to_store(samples) - frames):
                # `encodec` cuts its audio to the file's number of samples, so the frame itself is not heard.
                codes = np.pad(codes, ((0, 0), (0, missing)), mode="edge")
            parts.append(pack_codes(codes, form.bits_per_code).data)
            first += frames
        codebooks = encoded.codes.shape[0]
        return cls(name, encoded.sample_count, codebooks, False, b"".join(parts), form, encoded.model)

    @classmethod
    def read(cls, source: EcdcSource) -> Self:
        """Reads a file.

        Raises:
            ValueError: It is not an .ecdc file, or its header is damaged or says what can't be.
            OSError: It can't be read.
        """
        data = _bytes(source)
        if len(data) < _HEADER.size or data[:4] != b"ECDC":
            raise ValueError("not an .ecdc file")
        _, version, size = _HEADER.unpack_from(data)
        if version != 0:
            raise ValueError(f".ecdc of version {version}, only 0 is known")
        if size > _MAX_META_BYTES or _HEADER.size + size > len(data):
            raise ValueError(".ecdc file truncated in its header")
        end = _HEADER.size + size
        try:
            meta = json.loads(data[_HEADER.size : end].decode("utf-8"))
        except (ValueError, RecursionError):
            raise ValueError(".ecdc header: not JSON") from None
        if not isinstance(meta, dict) or not isinstance(meta.get("m"), str) or not isinstance(meta.get("lm"), bool):
            raise ValueError('.ecdc header: "m" and "lm" are missing')
        samples = _whole(meta, "al", 1, _MAX_SAMPLES)
        codebooks = _whole(meta, "nc", 1, _MAX_CODEBOOKS)
        extra = meta.get("antiphon", {})
        served = extra.get("model", "") if isinstance(extra, dict) else ""
        form = PUBLIC_FORMS.get(meta["m"]) or _form_in(extra, meta["m"])
        return cls(
            meta["m"], samples, codebooks, meta["lm"], data[end:], form, served if isinstance(served, str) else ""
        )

    def unpack(self, model: str = "") -> EncodedAudio:
        """Returns the codes, as `encode` would, ready for `decode`; `model` to name another than the file does.

        Raises:
            ValueError: The file is truncated, longer than its header says, or entropy-coded.
        """
        if self.is_entropy_coded:
            raise ValueError("entropy-coded: the server that holds the model's language model must expand it")
        form = self.form
        if form.stride_samples and self.sample_count > form.stride_samples * len(self.payload):
            # Before a list of that length is made.
            raise ValueError(f".ecdc file truncated: {len(self.payload)} bytes of codes")
        segments = form.segments(self.sample_count)
        lengths = [(form.frames(samples), frames) for samples, frames in self._stored(segments)]
        codes, scales, at = [], [], 0
        for wanted, stored in lengths:
            if form.is_normalising:
                scales += list(_SCALE.unpack_from(self.payload, at)) * wanted
            end = at + form.segment_bytes(stored, self.codebook_count)
            packed = audio_pb2.CodeFrames(
                frame_count=stored,
                codebook_count=self.codebook_count,
                bits_per_code=form.bits_per_code,
                data=self.payload[at + (_SCALE.size if form.is_normalising else 0) : end],
            )
            codes.append(unpack_codes(packed)[:, :wanted])
            at = end
        return EncodedAudio(
            codes=np.concatenate(codes, axis=1),
            bits_per_code=form.bits_per_code,
            model=model or self.decoding_model,
            sample_count=self.sample_count,
            sample_rate_hz=form.sample_rate_hz,
            channel_count=form.channel_count,
            bandwidth_kbps=form.bits_per_code * form.frame_rate_hz * self.codebook_count / 1000,
            scales=tuple(scales),
        )

    @property
    def decoding_model(self) -> str:
        """The name by which a server should know the model."""
        return self.served_model or (f"facebook/{self.model}" if self.model in PUBLIC_FORMS else self.model)

    def to_bytes(self) -> bytes:
        """Returns the whole file."""
        meta: dict[str, Any] = {
            "m": self.model,
            "al": self.sample_count,
            "nc": self.codebook_count,
            "lm": self.is_entropy_coded,
        }
        form = self.form
        meta["antiphon"] = {
            "model": self.served_model,
            "sample_rate_hz": form.sample_rate_hz,
            "channel_count": form.channel_count,
            "frame_rate_hz": form.frame_rate_hz,
            "bits_per_code": form.bits_per_code,
            "segment_samples": form.segment_samples,
            "stride_samples": form.stride_samples,
            "is_normalising": form.is_normalising,
        }
        dumped = json.dumps(meta).encode()
        return _HEADER.pack(b"ECDC", 0, len(dumped)) + dumped + self.payload

    def _stored(self, segments: list[int]) -> Iterator[tuple[int, int]]:
        """Each segment's samples, and the frames that the file holds of it: ours have what `encodec` reads."""
        for count in (self.form.frames, self.form.frames_that_encodec_reads):
            frames = [count(samples) for samples in segments]
            expected = sum(self.form.segment_bytes(number, self.codebook_count) for number in frames)
            if expected == len(self.payload):
                return zip(segments, frames, strict=True)
        what = "truncated" if len(self.payload) < expected else "too long"
        raise ValueError(f".ecdc file {what}: {len(self.payload)} bytes of codes, {expected} expected")


def write_ecdc(destination: str | os.PathLike[str] | BinaryIO, encoded: EncodedAudio) -> int:
    """Writes an .ecdc file; returns its bytes. A file that is given stays open.

    Raises:
        ValueError: The codes do not fit the file's form; see `EcdcFile.pack`.
        OSError: The destination can't be written.
    """
    data = EcdcFile.pack(encoded).to_bytes()
    if isinstance(destination, (str, os.PathLike)):
        return Path(destination).write_bytes(data)
    destination.write(data)
    return len(data)


def read_ecdc(source: EcdcSource) -> EncodedAudio:
    """Reads an .ecdc file that is not entropy-coded; the result goes to `decode` as it is.

    Raises:
        ValueError: The file is damaged, or entropy-coded.
        OSError: It can't be read.
    """
    return EcdcFile.read(source).unpack()


def _bytes(source: EcdcSource) -> bytes:
    if isinstance(source, bytes):
        return source
    return Path(source).read_bytes() if isinstance(source, (str, os.PathLike)) else source.read()


def form_of(encoded: EncodedAudio) -> tuple[str, EcdcForm]:
    """Returns the name and the form under which a file holds such codes.

    Raises:
        ValueError: There is no form for them.
    """
    name = encoded.model.replace("\\", "/").rstrip("/").rpartition("/")[2]
    known = PUBLIC_FORMS.get(name)
    facts = (encoded.sample_rate_hz, encoded.channel_count, encoded.bits_per_code, bool(encoded.scales))
    if known and facts == (known.sample_rate_hz, known.channel_count, known.bits_per_code, known.is_normalising):
        return name, known
    rate = encoded.bandwidth_kbps * 1000 / (encoded.bits_per_code * encoded.codes.shape[0])
    form = EcdcForm(encoded.sample_rate_hz, encoded.channel_count, rate, encoded.bits_per_code)
    if encoded.scales:
        form = PUBLIC_FORMS["encodec_48khz"]
        if facts[:3] != (form.sample_rate_hz, form.channel_count, form.bits_per_code):
            raise ValueError("scales: only models of the form of EnCodec 48 kHz have a place for them in .ecdc")
    elif not rate:
        raise ValueError("bandwidth_kbps: needed to write an .ecdc file of this model")
    # A name of the public package's stands for its own form only.
    return (f"antiphon/{name}" if known else encoded.model), form


def _form_in(extra: object, model: str) -> EcdcForm:
    if not isinstance(extra, dict):
        raise ValueError(f".ecdc header: the model {model} is not known, and nothing is said of it")
    rate = extra.get("frame_rate_hz")
    sample_rate = _whole(extra, "sample_rate_hz", 1, 1_000_000)
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= sample_rate:
        raise ValueError('.ecdc header: "frame_rate_hz" is missing or out of range')
    segment = _whole(extra, "segment_samples", 0, _MAX_SAMPLES)
    stride = _whole(extra, "stride_samples", 1 if segment else 0, segment)
    if segment and stride * 2 < segment:
        raise ValueError('.ecdc header: "stride_samples" is out of range')
    bits = _whole(extra, "bits_per_code", 1, 16)
    is_normalising = extra.get("is_normalising") is True
    channels = _whole(extra, "channel_count", 1, 64)
    return EcdcForm(sample_rate, channels, rate, bits, segment, stride, is_normalising)


def _whole(meta: dict[str, Any], name: str, least: int, most: int) -> int:
    value = meta.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f'.ecdc header: "{name}" is missing or out of range')
    return value
