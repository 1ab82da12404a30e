"""The first frame of an MP3 file, which tells its length, for files that are sent before they are whole.

The frame is silence to decoders that do not know it. To the others its tag ("Info", with LAME's extension) says how
many frames follow and how many samples at either end are the encoder's own, so that exactly the audio is played.
"""

from __future__ import annotations

import functools
import io
import struct

import av
import numpy as np

RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""The sample rates of MPEG-1, MPEG-2 and MPEG-2.5 layer III."""

_ENCODER_DELAY = 576
_LEAST_PADDING = 576
_EXTENSION_BYTES = 36


def bit_rate(rate_hz: int, channel_count: int) -> int:
    """Return the constant bits a second: 192,000 for stereo at the rates of MPEG-1, less for less."""
    if rate_hz >= 32_000:
        return 192_000 if channel_count == 2 else 128_000
    if rate_hz >= 16_000:
        return 128_000 if channel_count == 2 else 80_000
    return 64_000 if channel_count == 2 else 32_000


def info_frame(rate_hz: int, channel_count: int, total_samples: int) -> bytes:
    """Return the frame that goes before `total_samples` samples (of each channel) of libmp3lame's audio."""
    frame = bytearray(_template(rate_hz, channel_count))
    tag = frame.index(b"Info")
    frame_samples = 1152 if rate_hz >= 32_000 else 576
    # LAME fills the last frame, and adds another where the filling is too short for the decoder's overlap.
    padding = frame_samples - (total_samples + _ENCODER_DELAY) % frame_samples
    padding += frame_samples if padding < _LEAST_PADDING else 0
    frames = (total_samples + _ENCODER_DELAY + padding) // frame_samples
    size = round(frames * frame_samples * bit_rate(rate_hz, channel_count) / 8 / rate_hz) + len(frame)
    # The tag: its name, four bytes of flags, frames, bytes, a table of 100 for seeking, quality; then LAME's part.
    struct.pack_into(">II", frame, tag + 8, frames, size)
    frame[tag + 16 : tag + 116] = bytes(index * 256 // 100 for index in range(100))
    extension = tag + 120
    frame[extension + 21 : extension + 24] = (_ENCODER_DELAY << 12 | padding).to_bytes(3, "big")
    struct.pack_into(">IH", frame, extension + 28, size, 0)
    end = extension + _EXTENSION_BYTES - 2
    struct.pack_into(">H", frame, end, _crc16(bytes(frame[:end])))
    return bytes(frame)


@functools.lru_cache(maxsize=32)
def _template(rate_hz: int, channel_count: int) -> bytes:
    """Return the first frame of a short file that FFmpeg could finish."""
    buffer = io.BytesIO()
    layout = "mono" if channel_count == 1 else "stereo"
    options = {"id3v2_version": "0", "fflags": "bitexact"}
    with av.open(buffer, "w", format="mp3", container_options=options) as container:
        stream = container.add_stream("libmp3lame", rate=rate_hz)
        stream.codec_context.layout = layout
        stream.codec_context.format = "fltp"
        stream.codec_context.bit_rate = bit_rate(rate_hz, channel_count)
        frame = av.AudioFrame.from_ndarray(np.zeros((channel_count, 1152), np.float32), "fltp", layout)
        frame.sample_rate = rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = buffer.getvalue()
    with av.open(io.BytesIO(data)) as container:
        # FFmpeg counts the frame of information as a header: the first packet is the first frame after it.
        first = next(packet for packet in container.demux() if packet.size)
        assert first.pos is not None
        return data[: first.pos]


def _crc16(data: bytes) -> int:
    """CRC-16 with the polynomial 0x8005, bits reversed, as LAME signs its tag."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value
