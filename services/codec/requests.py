"""What the codec's messages ask for, checked, as plain values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from antiphon.codes import bits_per_code, unpack_codes
from antiphon.v1 import audio_pb2, codec_pb2
from services.runtime.errors import InvalidArgument, NotFound

# Bandwidths arrive as decimal fractions: 1.35 / 0.45 must give three codebooks.
_TOLERANCE = 1e-9
_ENCODINGS = {
    audio_pb2.AUDIO_ENCODING_UNSPECIFIED: audio_pb2.AUDIO_ENCODING_PCM_S16LE,
    audio_pb2.AUDIO_ENCODING_PCM_S16LE: audio_pb2.AUDIO_ENCODING_PCM_S16LE,
    audio_pb2.AUDIO_ENCODING_PCM_F32LE: audio_pb2.AUDIO_ENCODING_PCM_F32LE,
    audio_pb2.AUDIO_ENCODING_WAV: audio_pb2.AUDIO_ENCODING_WAV,
}


@dataclasses.dataclass(frozen=True)
class CodecFacts:
    """What the checks need to know of a loaded codec."""

    name: str
    sample_rate_hz: int
    channel_count: int
    frame_rate_hz: float
    codebook_count: int
    codebook_size: int
    usual_codebook_count: int
    """Codebooks that were active when the checkpoint was loaded."""
    is_normalising: bool
    """Whether codes come with the loudness of their piece."""
    max_seconds: float

    @property
    def bits_per_code(self) -> int:
        return bits_per_code(self.codebook_size)

    @property
    def codebook_kbps(self) -> float:
        """Kilobits a second of one codebook."""
        return self.bits_per_code * self.frame_rate_hz / 1000

    @property
    def samples_per_frame(self) -> int:
        return round(self.sample_rate_hz / self.frame_rate_hz)


@dataclasses.dataclass(frozen=True)
class Encoding:
    """One call of Encode."""

    model: str
    audio: bytes
    codebook_count: int
    include_values: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Decoding:
    """One call of Decode or DecodeFile."""

    model: str
    codes: NDArray[np.int32]
    """``[K, T]``."""
    scale: float | None
    sample_count: int
    encoding: audio_pb2.AudioEncoding


def encoding(request: codec_pb2.EncodeRequest, models: Mapping[str, CodecFacts]) -> Encoding:
    """Check an EncodeRequest. Raises InvalidArgument, NotFound."""
    codec = _find(request.model, models)
    return Encoding(codec.name, request.audio.data, _codebook_count(request, codec), request.include_values)


def decoding(request: codec_pb2.DecodeRequest, models: Mapping[str, CodecFacts]) -> Decoding:
    """Check a DecodeRequest. Raises InvalidArgument, NotFound."""
    codec = _find(request.model, models)
    _check_decoder(request.decoder, request.quality)
    chosen = _check_format(request.output_format, codec)
    codes = _unpacked(request.codes, codec)
    return Decoding(
        codec.name, codes, _scale(request.codes, codec), _samples(request.sample_count, codes, codec), chosen
    )


def file_decoding(request: codec_pb2.DecodeFileRequest, models: Mapping[str, CodecFacts]) -> Decoding:
    """Check a DecodeFileRequest. Raises InvalidArgument, NotFound."""
    codec = _find(request.model, models)
    if request.HasField("codes") == bool(request.values):
        raise InvalidArgument("codes", "give either this or values")
    if request.values:
        codes, scale = _from_values(request.values, codec), None
        if codec.is_normalising:
            raise InvalidArgument("values", f"{codec.name} needs scales too: send codes")
    else:
        codes, scale = _unpacked(request.codes, codec), _scale(request.codes, codec)
    samples = _samples(request.sample_count, codes, codec)
    return Decoding(codec.name, codes, scale, samples, audio_pb2.AUDIO_ENCODING_WAV)


def _find(name: str, models: Mapping[str, CodecFacts]) -> CodecFacts:
    if not name:
        return next(iter(models.values()))
    if name not in models:
        raise NotFound("model", f"{name!r} is not loaded; loaded: {', '.join(models)}")
    return models[name]


def _codebook_count(request: codec_pb2.EncodeRequest, codec: CodecFacts) -> int:
    kbps, count, quality = request.bandwidth_kbps, request.codebook_count, request.quality
    if not math.isfinite(kbps) or kbps < 0:
        raise InvalidArgument("bandwidth_kbps", f"{kbps} is not a finite number from 0")
    if not 0 <= count <= codec.codebook_count:
        raise InvalidArgument("codebook_count", f"{count} is not 0 to {codec.codebook_count}")
    if kbps and count:
        raise InvalidArgument("codebook_count", "give either this or bandwidth_kbps")
    if quality not in codec_pb2.Quality.values():
        raise InvalidArgument("quality", f"{quality} is not known")
    if quality:
        if kbps or count:
            raise InvalidArgument("quality", "give either this or bandwidth_kbps or codebook_count")
        return {
            codec_pb2.QUALITY_DRAFT: 1,
            codec_pb2.QUALITY_STANDARD: codec.usual_codebook_count,
            codec_pb2.QUALITY_HIGH: codec.codebook_count,
        }[quality]
    if kbps:
        exact = kbps / codec.codebook_kbps
        if exact < 1 - _TOLERANCE or exact > codec.codebook_count * (1 + _TOLERANCE):
            most = codec.codebook_kbps * codec.codebook_count
            raise InvalidArgument("bandwidth_kbps", f"{kbps:g} is not {codec.codebook_kbps:g} to {most:g}")
        return min(codec.codebook_count, math.floor(exact * (1 + _TOLERANCE)))
    return count or codec.codebook_count


def _check_decoder(decoder: int, quality: int) -> None:
    if decoder not in codec_pb2.Decoder.values():
        raise InvalidArgument("decoder", f"{decoder} is not known")
    if quality not in codec_pb2.Quality.values():
        raise InvalidArgument("quality", f"{quality} is not known")
    if decoder and quality:
        raise InvalidArgument("quality", "give either this or decoder")
    if decoder == codec_pb2.DECODER_MULTI_BAND_DIFFUSION:
        raise NotFound("decoder", "the weights of MultiBandDiffusion are not loaded")


def _check_format(form: audio_pb2.AudioFormat, codec: CodecFacts) -> audio_pb2.AudioEncoding:
    if form.encoding not in _ENCODINGS:
        raise InvalidArgument("output_format.encoding", "only PCM_S16LE, PCM_F32LE and WAV can be made")
    for field, given, own in (
        ("sample_rate_hz", form.sample_rate_hz, codec.sample_rate_hz),
        ("channel_count", form.channel_count, codec.channel_count),
    ):
        if given not in (0, own):
            raise InvalidArgument(f"output_format.{field}", f"{given} is not 0 or the model's own {own}")
    return _ENCODINGS[form.encoding]


def _unpacked(frames: audio_pb2.CodeFrames, codec: CodecFacts) -> NDArray[np.int32]:
    if not 1 <= frames.codebook_count <= codec.codebook_count:
        raise InvalidArgument("codes.codebook_count", f"{frames.codebook_count} is not 1 to {codec.codebook_count}")
    if frames.bits_per_code != codec.bits_per_code:
        raise InvalidArgument("codes.bits_per_code", f"{frames.bits_per_code} is not {codec.bits_per_code}")
    _check_frames("codes.frame_count", frames.frame_count, codec)
    try:
        codes = unpack_codes(frames)
    except ValueError as error:
        raise InvalidArgument("codes.data", str(error).removeprefix("codes: ")) from error
    if codes.max() >= codec.codebook_size:
        raise InvalidArgument("codes.data", f"holds the code {codes.max()}, of {codec.codebook_size}")
    return codes


def _check_frames(field: str, frames: int, codec: CodecFacts) -> None:
    most = int(codec.max_seconds * codec.frame_rate_hz)
    if not 1 <= frames <= most:
        raise InvalidArgument(field, f"{frames} frames are not 1 to {most}")


def _from_values(values: Sequence[codec_pb2.CodebookValues], codec: CodecFacts) -> NDArray[np.int32]:
    if len(values) > codec.codebook_count:
        raise InvalidArgument("values", f"{len(values)} codebooks, at most {codec.codebook_count}")
    length = len(values[0].values)
    _check_frames("values[0].values", length, codec)
    for index, book in enumerate(values):
        if len(book.values) != length:
            raise InvalidArgument(f"values[{index}].values", f"{len(book.values)} codes, the first has {length}")
        if not (min(book.values) >= 0 and max(book.values) < codec.codebook_size):
            raise InvalidArgument(f"values[{index}].values", f"a code is not 0 to {codec.codebook_size - 1}")
    return np.array([book.values for book in values], dtype=np.int32)


def _scale(frames: audio_pb2.CodeFrames, codec: CodecFacts) -> float | None:
    scales = frames.scales
    if not codec.is_normalising:
        if scales:
            raise InvalidArgument("codes.scales", f"{codec.name} does not normalise its input")
        return None
    if len(scales) != frames.frame_count:
        raise InvalidArgument("codes.scales", f"{len(scales)} for {frames.frame_count} frames")
    if any(scale != scales[0] for scale in scales) or not 0 <= scales[0] < math.inf:
        raise InvalidArgument("codes.scales", "not one finite number from 0 for all frames")
    return scales[0]


def _samples(asked: int, codes: NDArray[np.int32], codec: CodecFacts) -> int:
    held = codes.shape[1] * codec.samples_per_frame
    if asked > held:
        raise InvalidArgument("sample_count", f"{asked} is more than the {held} that the codes hold")
    return asked or held
