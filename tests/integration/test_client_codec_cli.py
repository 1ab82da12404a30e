"""`antiphon encode` and `antiphon decode`, as processes of their own, against a real server."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from antiphon import EcdcFile, EncodedAudio, read_ecdc, write_ecdc
from antiphon.v1 import audio_pb2, codec_pb2
from tests.integration.client_server import CHANNELS, FRAME, RATE, Served, piece_codes, served, tone
from tests.integration.codec_server import COMPRESSED, MADE, StreamingCodec

pytestmark = pytest.mark.timeout(60)
LONG = 40 * RATE


@pytest.fixture
def codec() -> StreamingCodec:
    return StreamingCodec()  # type: ignore[abstract]


@pytest.fixture
def server(codec: StreamingCodec) -> Iterator[Served]:
    with served(codec=codec) as running:
        yield running


def antiphon_cli(server: Served, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "antiphon.cli", *arguments]
    environment = {"ANTIPHON_TARGET": server.target, "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, input=stdin, capture_output=True, timeout=30, check=False, env=environment)


def wav_of(data: bytes, width: int = 2, channels: int = CHANNELS) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(RATE)
        file.writeframes(data)
    return buffer.getvalue()


def some_codes(frames: int) -> EncodedAudio:
    return EncodedAudio(
        piece_codes(0, frames).astype(np.int32), 10, "tiny", frames * FRAME - 7, RATE, CHANNELS, 2.0, ()
    )


def test_encodes_a_short_file_in_one_call(server: Served, codec: StreamingCodec, tmp_path: Path) -> None:
    source, out = tmp_path / "in.mp3", tmp_path / "out.ecdc"
    source.write_bytes(b"some audio")
    done = antiphon_cli(server, "encode", str(source), "-o", str(out), "--bandwidth", "6", "--model", "tiny")
    assert done.returncode == 0, done.stderr
    request = codec.requests[-1]
    assert (request.audio.data, request.bandwidth_kbps, request.model) == (b"some audio", 6.0, "tiny")
    found = read_ecdc(out)
    assert np.array_equal(found.codes, piece_codes(0, 50))
    assert found.sample_count == 50 * FRAME - 3
    line = done.stderr.decode().splitlines()[-1]
    assert line.startswith(f"{out}: 1.0 s, ")
    kbps = out.stat().st_size * 8 / 1000 / (found.sample_count / RATE)
    ratio = found.sample_count * CHANNELS * 2 / out.stat().st_size
    assert f"{kbps:.2f} kbps, {ratio:.1f}:1 of 16-bit PCM, " in line
    assert line.endswith("x real time")


def test_encodes_from_stdin_to_stdout(server: Served) -> None:
    done = antiphon_cli(server, "encode", "-", "-o", "-", stdin=b"some audio")
    assert done.returncode == 0, done.stderr
    assert np.array_equal(read_ecdc(done.stdout).codes, piece_codes(0, 50))
    assert done.stderr.startswith(b"stdout: ")


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_streams_a_long_wav(server: Served, codec: StreamingCodec, tmp_path: Path, width: int) -> None:
    source, out = tmp_path / "in.wav", tmp_path / "out.ecdc"
    levels = np.arange(LONG) % 200 - 100
    layouts = {1: (levels + 128).astype(np.uint8), 2: levels.astype("<i2"), 4: (levels << 16).astype("<i4")}
    upper = (levels << 16).astype("<i4").view(np.uint8).reshape(-1, 4)[:, 1:]
    source.write_bytes(wav_of(upper.tobytes() if width == 3 else layouts[width].tobytes(), width, 1))
    done = antiphon_cli(server, "encode", str(source), "-o", str(out), "--codebooks", "2")
    assert done.returncode == 0, done.stderr
    config = codec.encode_configs[-1]
    assert (config.format.sample_rate_hz, config.format.channel_count, config.codebook_count) == (RATE, 1, 2)
    found = read_ecdc(out)
    assert np.array_equal(found.codes, piece_codes(0, LONG // FRAME)[:2])
    assert found.sample_count == LONG
    if width == 2:
        assert codec.heard == layouts[2].tobytes()
    else:
        heard = np.frombuffer(codec.heard, "<f4")
        np.testing.assert_allclose(heard, levels / {1: 128, 3: 2.0**15, 4: 2.0**15}[width], atol=1e-7)


def test_a_cut_wav_is_left_to_the_server(server: Served, codec: StreamingCodec, tmp_path: Path) -> None:
    source = tmp_path / "in.wav"
    data = wav_of(tone(0, LONG).tobytes())[:-10]
    source.write_bytes(data)
    assert antiphon_cli(server, "encode", str(source), "-o", str(tmp_path / "out.ecdc")).returncode == 0
    assert codec.requests[-1].audio.data == data


def test_entropy_coding_asks_the_server(server: Served, codec: StreamingCodec, tmp_path: Path) -> None:
    out = tmp_path / "out.ecdc"
    done = antiphon_cli(server, "encode", "-", "-o", str(out), "--entropy", stdin=b"x")
    assert done.returncode == 0, done.stderr
    file = EcdcFile.read(out)
    assert (file.is_entropy_coded, file.payload) == (True, COMPRESSED)
    done = antiphon_cli(server, "decode", str(out), "-o", str(tmp_path / "back.flac"))
    assert done.returncode == 0, done.stderr
    assert codec.requests[-2].data == COMPRESSED
    assert codec.requests[-1].output_format.encoding == audio_pb2.AUDIO_ENCODING_FLAC


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("back.wav", audio_pb2.AUDIO_ENCODING_WAV),
        ("back.FLAC", audio_pb2.AUDIO_ENCODING_FLAC),
        ("back.ogg", audio_pb2.AUDIO_ENCODING_OGG_OPUS),
        ("back.mp3", audio_pb2.AUDIO_ENCODING_MP3),
    ],
)
def test_decodes_a_short_file_in_one_call(
    server: Served, codec: StreamingCodec, tmp_path: Path, name: str, encoding: int
) -> None:
    source, out = tmp_path / "in.ecdc", tmp_path / name
    write_ecdc(source, some_codes(10))
    options = ["--rate", "44100", "--channels", "1", "--quality", "high"]
    done = antiphon_cli(server, "decode", str(source), "-o", str(out), *options)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == MADE
    request = codec.requests[-1]
    form = request.output_format
    assert (form.encoding, form.sample_rate_hz, form.channel_count) == (encoding, 44_100, 1)
    assert (request.model, request.sample_count, request.quality) == ("tiny", 10 * FRAME - 7, codec_pb2.QUALITY_HIGH)
    assert done.stderr.decode().startswith(f"{out}: 0.2 s, ")


def test_streams_a_long_file_to_wav(server: Served, codec: StreamingCodec, tmp_path: Path) -> None:
    frames = LONG // FRAME
    source, out = tmp_path / "in.ecdc", tmp_path / "back.wav"
    write_ecdc(source, some_codes(frames))
    done = antiphon_cli(server, "decode", str(source), "-o", str(out))
    assert done.returncode == 0, done.stderr
    with wave.open(str(out)) as wav:
        assert (wav.getframerate(), wav.getnchannels()) == (RATE, CHANNELS)
        assert wav.readframes(1 << 30) == tone(0, LONG).tobytes()
    assert np.array_equal(codec.codes, piece_codes(0, frames))
    assert codec.decode_configs[0].sample_count == LONG - 7


def test_streams_a_long_file_to_stdout_as_mp3(server: Served, codec: StreamingCodec, tmp_path: Path) -> None:
    file = io.BytesIO()
    write_ecdc(file, some_codes(LONG // FRAME))
    done = antiphon_cli(server, "decode", "-", "-o", "-", "--format", "mp3", stdin=file.getvalue())
    assert (done.returncode, done.stdout) == (0, MADE), done.stderr
    assert codec.decode_configs[0].output_format.encoding == audio_pb2.AUDIO_ENCODING_MP3


def test_a_model_is_found_whatever_folder_it_lies_in(server: Served, codec: StreamingCodec, tmp_path: Path) -> None:
    codes = some_codes(10)
    file = EcdcFile.pack(codes)
    elsewhere = EcdcFile("tiny", file.sample_count, 4, False, file.payload, file.form, "/elsewhere/tiny")
    source = tmp_path / "in.ecdc"
    source.write_bytes(elsewhere.to_bytes())
    assert antiphon_cli(server, "decode", str(source), "-o", str(tmp_path / "a.wav")).returncode == 0
    assert codec.requests[-1].model == "tiny"
    assert antiphon_cli(server, "decode", str(source), "-o", str(tmp_path / "b.wav"), "--model", "x").returncode == 0
    assert codec.requests[-1].model == "x"


def test_does_not_overwrite_unless_told_to(server: Served, tmp_path: Path) -> None:
    source, out = tmp_path / "in.wav", tmp_path / "out.ecdc"
    source.write_bytes(b"some audio")
    out.write_bytes(b"precious")
    done = antiphon_cli(server, "encode", str(source), "-o", str(out))
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[1] == "hint: choose another path, or replace it with --force"
    assert out.read_bytes() == b"precious"
    assert antiphon_cli(server, "encode", str(source), "-o", str(out), "--force").returncode == 0
    assert out.read_bytes()[:4] == b"ECDC"
    done = antiphon_cli(server, "encode", str(source), "-o", str(source), "--force")
    assert (done.returncode, source.read_bytes()) == (1, b"some audio")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["encode", "/nowhere/in.wav", "-o", "out.ecdc"], 1, "/nowhere/in.wav: No such file"),
        (["decode", "/nowhere/in.ecdc", "-o", "out.wav"], 1, "/nowhere/in.ecdc: No such file"),
        (["decode", "-", "-o", "out.wav"], 1, "not an .ecdc file"),
        (["decode", "-", "-o", "out.txt"], 2, "no format ends like this"),
        (["decode", "-", "-o", "-", "--format", "aac"], 2, "aac is not one of"),
        (["encode", "-", "-o", "out.ecdc"], 1, "is not audio that can be read"),
        (["encode", "-", "-o", "out.ecdc", "--quality", "best"], 1, "'best' is not one of draft, standard, high"),
        (["encode", "-"], 2, "output"),
    ],
)
def test_errors_come_in_two_lines(server: Served, tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    placed = [str(tmp_path / word) if word.startswith("out.") else word for word in arguments]
    done = antiphon_cli(server, *placed, stdin=b"broken")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == code
    assert lines[-2].startswith("error: ")
    assert says in lines[-2]
    assert lines[-1].startswith("hint: ")
    assert not list(tmp_path.iterdir())


def test_a_terminal_gets_a_bar(server: Served, tmp_path: Path) -> None:
    source = tmp_path / "in.wav"
    source.write_bytes(wav_of(tone(0, LONG).tobytes()))
    master, slave = os.openpty()
    command = [sys.executable, "-m", "antiphon.cli", "encode", str(source), "-o", str(tmp_path / "out.ecdc")]
    environment = {"PATH": "/usr/bin:/bin", "TERM": "xterm", "COLUMNS": "120", "ANTIPHON_TARGET": server.target}
    with subprocess.Popen(command, stderr=slave, env=environment) as process:
        os.close(slave)
        shown = b""
        try:
            while data := os.read(master, 4096):
                shown += data
        except OSError:
            # Linux says so at the end of a terminal.
            pass
    os.close(master)
    assert process.returncode == 0
    assert b"encoding" in shown
    assert b"40 of 40 s" in shown
