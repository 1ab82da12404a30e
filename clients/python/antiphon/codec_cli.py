"""`antiphon encode` and `antiphon decode`."""

from __future__ import annotations

import dataclasses
import io
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, get_args

import typer

from antiphon.audio import OutputEncoding, WavWriter
from antiphon.client import Client
from antiphon.codec_streams import DecodeOptions, EncodeOptions, Quality
from antiphon.command import Target, Timeout, Tls, check_output, connected, failed, is_standard, name_of
from antiphon.ecdc import EcdcFile
from antiphon.results import EncodedAudio, Service
from antiphon.terminal import progress, say
from antiphon.wav_input import long_wav, wav_blocks

# Longer pieces are streamed: one call holds a whole piece in memory, and servers limit its length.
STREAM_SECONDS = 30.0
_PCM_BYTES = 2
_SUFFIXES: dict[str, OutputEncoding] = {
    ".wav": "wav",
    ".flac": "flac",
    ".ogg": "ogg_opus",
    ".opus": "ogg_opus",
    ".mp3": "mp3",
    ".pcm": "pcm_s16le",
    ".raw": "pcm_s16le",
}

Force = Annotated[bool, typer.Option("--force", "-f", help="Replace an output that is there.")]
Level = Annotated[str | None, typer.Option("--quality", help=f"One of {', '.join(get_args(Quality))}.")]


def encode(
    source: Annotated[Path, typer.Argument(help="Audio file of any kind; - for stdin.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help=".ecdc file; - for stdout.")],
    model: Annotated[str, typer.Option(help="A name from `antiphon models`.")] = "",
    bandwidth: Annotated[float, typer.Option(help="Kilobits a second at most; default: all codebooks.")] = 0.0,
    codebooks: Annotated[int, typer.Option(help="Codebooks, in place of the bandwidth.")] = 0,
    quality: Level = None,
    entropy: Annotated[
        bool, typer.Option("--entropy", help="Entropy-code: smaller and slower; the server needs the language model.")
    ] = False,
    force: Force = False,
    target: Target = None,
    tls: Tls = False,
    timeout: Timeout = None,
) -> None:
    """Turn an audio file into codes, in an .ecdc file."""
    check_output(output, source, force)
    options: EncodeOptions = {"model": model, "bandwidth_kbps": bandwidth, "codebook_count": codebooks}
    # The values are checked where they are sent.
    options["quality"] = quality  # type: ignore[typeddict-item]
    begin = time.perf_counter()
    with connected(target, tls) as client:
        encoded = _encoded(client, source, options, timeout)
        try:
            file = client.compress(encoded, timeout=timeout) if entropy else EcdcFile.pack(encoded)
        except ValueError as error:
            raise failed(f"{source}: {error}", "this model's codes have no place in an .ecdc file") from None
        data = file.to_bytes()
        with _opened(output) as out:
            out.write(data)
    _sum_up(output, encoded, len(data), begin)


def decode(
    source: Annotated[Path, typer.Argument(help=".ecdc file; - for stdin.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Audio file, - for stdout; its name says the format.")],
    model: Annotated[str, typer.Option(help="A name from `antiphon models`; default: what the file says.")] = "",
    encoding: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(get_args(OutputEncoding))}; default: by the name.")
    ] = "",
    rate: Annotated[int, typer.Option(help="Samples a second; default: the model's.")] = 0,
    channels: Annotated[int, typer.Option(help="1 or 2; default: the model's.")] = 0,
    quality: Level = None,
    force: Force = False,
    target: Target = None,
    tls: Tls = False,
    timeout: Timeout = None,
) -> None:
    """Turn an .ecdc file into an audio file: WAV, FLAC, Ogg/Opus, MP3 or raw 16-bit PCM."""
    chosen = _encoding_of(output, encoding)
    check_output(output, source, force)
    data = sys.stdin.buffer.read() if is_standard(source) else source.read_bytes()
    begin = time.perf_counter()
    try:
        file = EcdcFile.read(data)
        plain = None if file.is_entropy_coded else file.unpack()
    except ValueError as error:
        raise failed(
            f"{source}: {error}", "antiphon encode makes such files, and so does the encodec package"
        ) from None
    with connected(target, tls) as client:
        name = model or _loaded_name(client, file, timeout)
        encoded = dataclasses.replace(plain, model=name) if plain else client.expand(file, model=name, timeout=timeout)
        options: DecodeOptions = {"sample_rate_hz": rate, "channel_count": channels}
        options["quality"] = quality  # type: ignore[typeddict-item]
        # A decoder for quality may need the whole piece.
        if _seconds(encoded) > STREAM_SECONDS and not quality:
            _stream_decode(client, encoded, output, chosen, options, timeout)
        else:
            with progress("decoding", 0.0):
                made = client.decode_file(encoded, encoding=chosen, timeout=timeout, **options)
            with _opened(output) as out:
                out.write(made)
    _sum_up(output, encoded, len(data), begin)


def _encoded(client: Client, source: Path, options: EncodeOptions, timeout: float | None) -> EncodedAudio:
    with io.BytesIO(sys.stdin.buffer.read()) if is_standard(source) else source.open("rb") as file:
        wav = long_wav(file, STREAM_SECONDS)
        if wav is None:
            file.seek(0)
            with progress("encoding", 0.0):
                return client.encode(file.read(), timeout=timeout, **options)
        rate, channels, total = wav.getframerate(), wav.getnchannels(), wav.getnframes()
        with (
            progress("encoding", total / rate) as reached,
            closing(wav),
            client.stream_encode(
                wav_blocks(wav, reached), sample_rate_hz=rate, channel_count=channels, timeout=timeout, **options
            ) as stream,
        ):
            for _ in stream:
                pass
        return stream.result


def _stream_decode(
    client: Client,
    encoded: EncodedAudio,
    output: Path,
    encoding: OutputEncoding,
    options: DecodeOptions,
    timeout: float | None,
) -> None:
    # Here a WAV's header is kept right while the file grows; the server would have to know its length.
    wanted: OutputEncoding = "pcm_s16le" if encoding == "wav" else encoding
    seconds = _seconds(encoded)
    with (
        progress("decoding", seconds) as reached,
        client.stream_decode(encoded, encoding=wanted, timeout=timeout, **options) as stream,
        _opened(output) as out,
    ):
        rate = options.get("sample_rate_hz") or encoded.sample_rate_hz
        wav = WavWriter(out, total_samples=encoded.sample_count * rate // encoded.sample_rate_hz)
        for chunk in stream:
            if encoding == "wav":
                wav.write(chunk)
            else:
                out.write(chunk.data)
            reached(stream.sample_count / chunk.sample_rate_hz)


def _loaded_name(client: Client, file: EcdcFile, timeout: float | None) -> str:
    """The name of the file's model on this server: the same, or the same but for the folder it lies in."""
    loaded = client.list_models(timeout=timeout)
    names = [model.name for model in loaded if model.service is Service.CODEC]
    same = [name for name in names if name.rstrip("/").rpartition("/")[2] == file.model]
    return file.decoding_model if file.decoding_model in names or not same else same[0]


def _encoding_of(output: Path, given: str) -> OutputEncoding:
    if given:
        for known in get_args(OutputEncoding):
            if given == known:
                encoding: OutputEncoding = known
                return encoding
        raise typer.BadParameter(f"{given} is not one of {', '.join(get_args(OutputEncoding))}", param_hint="--format")
    if is_standard(output):
        return "wav"
    if output.suffix.lower() not in _SUFFIXES:
        known_suffixes = ", ".join(_SUFFIXES)
        raise typer.BadParameter(f"{output}: no format ends like this; known: {known_suffixes}", param_hint="--output")
    return _SUFFIXES[output.suffix.lower()]


@contextmanager
def _opened(output: Path) -> Iterator[BinaryIO]:
    if is_standard(output):
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with output.open("wb") as file:
            yield file


def _seconds(encoded: EncodedAudio) -> float:
    return encoded.sample_count / encoded.sample_rate_hz


def _sum_up(output: Path, encoded: EncodedAudio, size: int, begin: float) -> None:
    seconds = _seconds(encoded)
    pcm = encoded.sample_count * encoded.channel_count * _PCM_BYTES
    speed = seconds / max(time.perf_counter() - begin, 1e-9)
    say(
        f"{name_of(output)}: {seconds:.1f} s, {size * 8 / 1000 / seconds:.2f} kbps, "
        f"{pcm / size:.1f}:1 of 16-bit PCM, {speed:.1f}x real time"
    )
