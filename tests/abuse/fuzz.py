"""Fuzzes what reads requests with atheris: `python -m tests.abuse.fuzz RUNS FOLDER`, in a process of its own.

libFuzzer follows the coverage of the three services' `requests` modules. Whatever the bytes are, they may raise what
callers are told (ServiceError) and nothing else. FOLDER keeps each input that reached something new; `tests.abuse`
sends these to the real stack too.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(
    include=["services.generator.requests", "services.generator.checks", "services.codec.requests", "antiphon.codes"],
    enable_loader_override=False,
):
    import services.codec.requests as codec
    import services.generator.requests as generator

from google.protobuf.message import DecodeError

from antiphon.v1 import audio_pb2, codec_pb2, generator_pb2
from services.models.loader import ModelInfo
from services.runtime.errors import ServiceError

_LICENSE = "MIT"
_TINY = ModelInfo("tiny", "music", 32_000, 1, 50.0, 4, 1024, 30.0, 10**6, "0" * 64, "cpu", "fp32", _LICENSE)
_CODEC = codec.CodecFacts("tiny", 32_000, 1, 50.0, 4, 1024, 4, False, 60.0)


def _generate(data: bytes) -> Any:
    config = generator_pb2.GenerationConfig.FromString(data)
    return generator.generation(config, {"tiny": _TINY}, streams=True)


def _batch(data: bytes) -> Any:
    return generator.batch(generator_pb2.GenerateBatchRequest.FromString(data), {"tiny": _TINY})


def _update(data: bytes) -> Any:
    return generator.change(generator_pb2.GenerationUpdate.FromString(data), _TINY)


def _encode(data: bytes) -> Any:
    return codec.encoding(codec_pb2.EncodeRequest.FromString(data), {"tiny": _CODEC})


def _decode(data: bytes) -> Any:
    return codec.decoding(codec_pb2.DecodeRequest.FromString(data), {"tiny": _CODEC})


def _decode_file(data: bytes) -> Any:
    return codec.file_decoding(codec_pb2.DecodeFileRequest.FromString(data), {"tiny": _CODEC})


READERS = (_generate, _batch, _update, _encode, _decode, _decode_file)


def test_one_input(data: bytes) -> None:
    """The first byte chooses the reader of the rest."""
    if not data:
        return
    with contextlib.suppress(DecodeError, ServiceError):
        READERS[data[0] % len(READERS)](data[1:])


def seeds() -> list[bytes]:
    """One good message for each reader: to break something, one must know what it looks like whole."""
    prompt = generator_pb2.WeightedPrompt(text="a song", weight=0.5)
    config = generator_pb2.GenerationConfig(prompts=[prompt, prompt], model="tiny", seed=7)
    config.sampling.temperature = 0.5
    config.duration.FromMilliseconds(2500)
    update = generator_pb2.GenerationUpdate(prompts=[prompt], blend_steps=5)
    frames = audio_pb2.CodeFrames(codebook_count=4, frame_count=2, bits_per_code=10, data=bytes(10))
    good = [
        config,
        generator_pb2.GenerateBatchRequest(configs=[config, config]),
        update,
        codec_pb2.EncodeRequest(model="tiny", include_values=True),
        codec_pb2.DecodeRequest(codes=frames),
        codec_pb2.DecodeFileRequest(codes=frames),
    ]
    return [bytes([index]) + message.SerializeToString() for index, message in enumerate(good)]


if __name__ == "__main__":
    runs, folder = sys.argv[1:3]
    for number, seed in enumerate(seeds()):
        (Path(folder) / f"seed{number}").write_bytes(seed)
    options = [f"-runs={runs}", "-max_len=512", "-max_total_time=120", "-seed=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, folder], test_one_input)
    atheris.Fuzz()
