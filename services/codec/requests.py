"""What the codec's messages ask for, checked, as plain values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from antiphon.codes import bits_per_code, unpack_codes
from antiphon.v1 import audio_pb2, codec_pb2
from services.models.audio_output import AudioOutput, OutputError
from services.models.audio_output import Encoding as OutputEncoding
from services.runtime.errors import InvalidArgument, NotFound

# Bandwidths arrive as decimal fractions: 1.35 / 0.45 must give three codebooks.
_TOLERANCE = 1e-9


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
    codebook_step: int = 1
    """Codebooks come in groups of so many: one for each channel where channels are coded apart."""
    is_streamable: bool = True
    segment_frames: int = 0
    segment_stride: int = 0
    diffusions: frozenset[int] = frozenset()
    """Numbers of codebooks that MultiBandDiffusion decodes; 0 stands for all."""

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

    @property
    def max_frames(self) -> int:
        """The longest piece; segments that overlap take a few more frames than they are long."""
        most = int(self.max_seconds * self.frame_rate_hz)
        if self.segment_frames:
            most = -(-int(self.max_seconds * self.sample_rate_hz) // self.segment_stride) * self.segment_frames
        return most

    def held(self, frames: int) -> int:
        """Return how many samples so many frames decode to."""
        if not self.segment_frames:
            return frames * self.samples_per_frame
        before = (frames - 1) // self.segment_frames
        rest = (frames - before * self.segment_frames) * self.samples_per_frame
        whole = self.segment_frames * self.samples_per_frame
        # A last segment shorter than the overlap ends before the one that it follows.
        return max(before * self.segment_stride + rest, (before - 1) * self.segment_stride + whole if before else 0)

    def diffuses(self, codebooks: int) -> bool:
        """Tell whether MultiBandDiffusion is loaded for so many codebooks."""
        return bool(self.diffusions & {0, codebooks})


@dataclasses.dataclass(frozen=True)
class Encoding:
    """One call of Encode."""

    model: str
    audio: bytes
    codebook_count: int
    include_values: bool
    decoder: codec_pb2.Decoder
    """What the quality that was asked for goes on to decode with."""


@dataclasses.dataclass(frozen=True, eq=False)
class Decoding:
    """One call of Decode or DecodeFile."""

    model: str
    codes: NDArray[np.int32]
    """``[K, T]``."""
    scales: list[float]
    sample_count: int
    output: AudioOutput
    decoder: codec_pb2.Decoder
    seed: int


def encoding(request: codec_pb2.EncodeRequest, models: Mapping[str, CodecFacts]) -> Encoding:
    """Check an EncodeRequest. Raises InvalidArgument, NotFound."""
    codec = find(request.model, models)
    count, decoder = choice(request, codec)
    return Encoding(codec.name, request.audio.data, count, request.include_values, decoder)


def decoding(request: codec_pb2.DecodeRequest, models: Mapping[str, CodecFacts]) -> Decoding:
    """Check a DecodeRequest. Raises InvalidArgument, NotFound."""
    codec = find(request.model, models)
    form = output(request.output_format, codec)
    codes = unpacked(request.codes, codec, codec.max_frames)
    return _decoding(request, codec, codes, scales(request.codes, codec), form)


def file_decoding(request: codec_pb2.DecodeFileRequest, models: Mapping[str, CodecFacts]) -> Decoding:
    """Check a DecodeFileRequest. Raises InvalidArgument, NotFound."""
    codec = find(request.model, models)
    if request.HasField("codes") == bool(request.values):
        raise InvalidArgument("codes", "give either this or values")
    form = output(request.output_format, codec, audio_pb2.AUDIO_ENCODING_WAV)
    if not request.values:
        codes = unpacked(request.codes, codec, codec.max_frames)
        return _decoding(request, codec, codes, scales(request.codes, codec), form)
    codes = _from_values(request.values, codec)
    if codec.is_normalising:
        raise InvalidArgument("values", f"{codec.name} needs scales too: send codes")
    return _decoding(request, codec, codes, [], form)


def _decoding(
    request: codec_pb2.DecodeRequest | codec_pb2.DecodeFileRequest,
    codec: CodecFacts,
    codes: NDArray[np.int32],
    loudness: list[float],
    form: AudioOutput,
) -> Decoding:
    held = codec.held(codes.shape[1])
    if request.sample_count > held:
        raise InvalidArgument("sample_count", f"{request.sample_count} is more than the {held} that the codes hold")
    decoder = chosen_decoder(request.decoder, request.quality, codes.shape[0], codec)
    return Decoding(codec.name, codes, loudness, request.sample_count or held, form, decoder, request.seed)


def find(name: str, models: Mapping[str, CodecFacts]) -> CodecFacts:
    """Return the facts of a model, the default for an empty name. Raises NotFound."""
    if not name:
        return next(iter(models.values()))
    if name not in models:
        raise NotFound("model", f"{name!r} is not loaded; loaded: {', '.join(models)}")
    return models[name]


def choice(
    request: codec_pb2.EncodeRequest | codec_pb2.StreamEncodeConfig, codec: CodecFacts
) -> tuple[int, codec_pb2.Decoder]:
    """Return the codebooks that a request asks for, and the decoder that goes with them. Raises InvalidArgument."""
    kbps, count, quality = request.bandwidth_kbps, request.codebook_count, request.quality
    if not math.isfinite(kbps) or kbps < 0:
        raise InvalidArgument("bandwidth_kbps", f"{kbps} is not a finite number from 0")
    if not 0 <= count <= codec.codebook_count:
        raise InvalidArgument("codebook_count", f"{count} is not 0 to {codec.codebook_count}")
    step = codec.codebook_step
    if count % step:
        raise InvalidArgument("codebook_count", f"{count} is not a multiple of {step}, one for each channel")
    if kbps and count:
        raise InvalidArgument("codebook_count", "give either this or bandwidth_kbps")
    if quality not in codec_pb2.Quality.values():
        raise InvalidArgument("quality", f"{quality} is not known")
    if quality:
        if kbps or count:
            raise InvalidArgument("quality", "give either this or bandwidth_kbps or codebook_count")
        return _of_quality(quality, codec)
    if kbps:
        exact = kbps / codec.codebook_kbps
        if exact < step - _TOLERANCE or exact > codec.codebook_count * (1 + _TOLERANCE):
            least, most = codec.codebook_kbps * step, codec.codebook_kbps * codec.codebook_count
            raise InvalidArgument("bandwidth_kbps", f"{kbps:g} is not {least:g} to {most:g}")
        count = min(codec.codebook_count, math.floor(exact * (1 + _TOLERANCE)))
        count -= count % step
    return count or codec.codebook_count, codec_pb2.DECODER_ENCODEC


def _of_quality(quality: int, codec: CodecFacts) -> tuple[int, codec_pb2.Decoder]:
    if quality == codec_pb2.QUALITY_DRAFT:
        return codec.codebook_step, codec_pb2.DECODER_ENCODEC
    if quality == codec_pb2.QUALITY_STANDARD:
        return codec.usual_codebook_count, codec_pb2.DECODER_ENCODEC
    if 0 in codec.diffusions or not codec.diffusions:
        decoder = codec_pb2.DECODER_MULTI_BAND_DIFFUSION if codec.diffusions else codec_pb2.DECODER_ENCODEC
        return codec.codebook_count, decoder
    # MultiBandDiffusion outdoes the codec's own decoder with the codebooks that it was trained for.
    return min(max(codec.diffusions), codec.codebook_count), codec_pb2.DECODER_MULTI_BAND_DIFFUSION


def chosen_decoder(decoder: int, quality: int, codebooks: int, codec: CodecFacts) -> codec_pb2.Decoder:
    """Return the decoder that runs. Raises InvalidArgument, NotFound."""
    if decoder not in codec_pb2.Decoder.values():
        raise InvalidArgument("decoder", f"{decoder} is not known")
    if quality not in codec_pb2.Quality.values():
        raise InvalidArgument("quality", f"{quality} is not known")
    if decoder and quality:
        raise InvalidArgument("quality", "give either this or decoder")
    if decoder == codec_pb2.DECODER_MULTI_BAND_DIFFUSION:
        if not codec.diffusions:
            raise NotFound("decoder", f"no weights of MultiBandDiffusion are loaded for {codec.name}")
        if not codec.diffuses(codebooks):
            known = ", ".join(map(str, sorted(codec.diffusions)))
            raise InvalidArgument("codes.codebook_count", f"MultiBandDiffusion is loaded for {known}, not {codebooks}")
    is_best = quality == codec_pb2.QUALITY_HIGH and codec.diffuses(codebooks)
    if is_best or decoder == codec_pb2.DECODER_MULTI_BAND_DIFFUSION:
        return codec_pb2.DECODER_MULTI_BAND_DIFFUSION
    return codec_pb2.DECODER_ENCODEC


def output(
    form: audio_pb2.AudioFormat,
    codec: CodecFacts,
    default: audio_pb2.AudioEncoding = audio_pb2.AUDIO_ENCODING_PCM_S16LE,
) -> AudioOutput:
    """Return the form in which audio leaves. Raises InvalidArgument."""
    if form.encoding not in audio_pb2.AudioEncoding.values():
        raise InvalidArgument("output_format.encoding", f"{form.encoding} is not known")
    name = audio_pb2.AudioEncoding.Name(form.encoding or default).removeprefix("AUDIO_ENCODING_")
    try:
        return AudioOutput.resolve(
            OutputEncoding(name),
            form.sample_rate_hz,
            form.channel_count,
            own_rate_hz=codec.sample_rate_hz,
            own_channel_count=codec.channel_count,
        )
    except OutputError as error:
        raise InvalidArgument(f"output_format.{error.field}", error.description) from error


def form_of(form: AudioOutput) -> audio_pb2.AudioFormat:
    """Return the message for a form of audio."""
    return audio_pb2.AudioFormat(
        encoding=f"AUDIO_ENCODING_{form.encoding.value}",
        sample_rate_hz=form.rate_hz,
        channel_count=form.channel_count,
    )


def unpacked(frames: audio_pb2.CodeFrames, codec: CodecFacts, most: int) -> NDArray[np.int32]:
    """Return codes ``[K, T]``, T from 1 to ``most``. Raises InvalidArgument."""
    if not 1 <= frames.codebook_count <= codec.codebook_count:
        raise InvalidArgument("codes.codebook_count", f"{frames.codebook_count} is not 1 to {codec.codebook_count}")
    if frames.codebook_count % codec.codebook_step:
        raise InvalidArgument("codes.codebook_count", f"{frames.codebook_count} is not one for each channel")
    if frames.bits_per_code != codec.bits_per_code:
        raise InvalidArgument("codes.bits_per_code", f"{frames.bits_per_code} is not {codec.bits_per_code}")
    if not 1 <= frames.frame_count <= most:
        raise InvalidArgument("codes.frame_count", f"{frames.frame_count} frames are not 1 to {most}")
    try:
        codes = unpack_codes(frames)
    except ValueError as error:
        raise InvalidArgument("codes.data", str(error).removeprefix("codes: ")) from error
    if codes.max() >= codec.codebook_size:
        raise InvalidArgument("codes.data", f"holds the code {codes.max()}, of {codec.codebook_size}")
    return codes


def _from_values(values: Sequence[codec_pb2.CodebookValues], codec: CodecFacts) -> NDArray[np.int32]:
    if len(values) > codec.codebook_count:
        raise InvalidArgument("values", f"{len(values)} codebooks, at most {codec.codebook_count}")
    length = len(values[0].values)
    if not 1 <= length <= codec.max_frames:
        raise InvalidArgument("values[0].values", f"{length} frames are not 1 to {codec.max_frames}")
    for index, book in enumerate(values):
        if len(book.values) != length:
            raise InvalidArgument(f"values[{index}].values", f"{len(book.values)} codes, the first has {length}")
        if not (min(book.values) >= 0 and max(book.values) < codec.codebook_size):
            raise InvalidArgument(f"values[{index}].values", f"a code is not 0 to {codec.codebook_size - 1}")
    return np.array([book.values for book in values], dtype=np.int32)


def scales(frames: audio_pb2.CodeFrames, codec: CodecFacts) -> list[float]:
    """Return the loudness of each frame, of models that normalise their input. Raises InvalidArgument."""
    given = list(frames.scales)
    if not codec.is_normalising:
        if given:
            raise InvalidArgument("codes.scales", f"{codec.name} does not normalise its input")
        return []
    if len(given) != frames.frame_count:
        raise InvalidArgument("codes.scales", f"{len(given)} for {frames.frame_count} frames")
    if not all(0 <= scale < math.inf for scale in given):
        raise InvalidArgument("codes.scales", "not all finite numbers from 0")
    for index in range(1, len(given)):
        begins = codec.segment_frames and (frames.first_frame + index) % codec.segment_frames == 0
        if given[index] != given[index - 1] and not begins:
            raise InvalidArgument("codes.scales", f"change at frame {index}, within a segment")
    return given
