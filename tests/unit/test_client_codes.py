"""Packing codes as audio.proto says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from antiphon import bits_per_code, pack_codes, unpack_codes
from antiphon.v1 import audio_pb2


@given(data=st.data(), bits=st.integers(1, 16), codebooks=st.integers(1, 9), frames=st.integers(0, 40))
def test_round_trip(data: st.DataObject, bits: int, codebooks: int, frames: int) -> None:
    values = st.integers(0, (1 << bits) - 1)
    codes = data.draw(arrays.arrays(np.int64, (codebooks, frames), elements=values))
    packed = pack_codes(codes, bits, first_frame=7)
    assert len(packed.data) == (codes.size * bits + 7) // 8
    assert (packed.first_frame, packed.frame_count, packed.codebook_count) == (7, frames, codebooks)
    unpacked = unpack_codes(audio_pb2.CodeFrames.FromString(packed.SerializeToString()))
    assert unpacked.dtype == np.int32
    np.testing.assert_array_equal(unpacked, codes)


def test_fixed_vector() -> None:
    # Frames (1, 1023) and (2, 512) of 10 bits, first bit first:
    # 1000000000 1111111111 0100000000 0000000001
    packed = pack_codes(np.array([[1, 2], [1023, 512]]), 10)
    assert packed.data == bytes([0b00000001, 0b11111100, 0b00101111, 0b00000000, 0b10000000])


def test_only_the_last_byte_is_padded() -> None:
    assert pack_codes(np.array([[7, 7, 7]]), 3).data == bytes([0b11111111, 0b00000001])


@pytest.mark.parametrize(("size", "bits"), [(1, 1), (2, 1), (3, 2), (1024, 10), (1025, 11), (65536, 16)])
def test_bits_per_code(size: int, bits: int) -> None:
    assert bits_per_code(size) == bits


@pytest.mark.parametrize("size", [0, 65537])
def test_codebook_sizes_that_do_not_exist(size: int) -> None:
    with pytest.raises(ValueError, match="codebook_size"):
        bits_per_code(size)


@pytest.mark.parametrize(
    ("codes", "bits"),
    [
        (np.zeros(3, np.int32), 10),
        (np.zeros((0, 3), np.int32), 10),
        (np.zeros((1, 3)), 10),
        (np.array([[1024]]), 10),
        (np.array([[-1]]), 10),
        (np.array([[0]]), 0),
        (np.array([[0]]), 17),
    ],
)
def test_codes_that_can_not_be_packed(codes: np.ndarray, bits: int) -> None:
    with pytest.raises(ValueError, match=r"codes|bits"):
        pack_codes(codes, bits)


@pytest.mark.parametrize(
    "frames",
    [
        audio_pb2.CodeFrames(frame_count=2, codebook_count=2, bits_per_code=10, data=b"1234"),
        audio_pb2.CodeFrames(frame_count=2, codebook_count=2, bits_per_code=10, data=b"123456"),
        audio_pb2.CodeFrames(frame_count=2, codebook_count=0, bits_per_code=10),
        audio_pb2.CodeFrames(frame_count=2, codebook_count=1, bits_per_code=17, data=b"12345"),
    ],
)
def test_frames_that_can_not_be_unpacked(frames: audio_pb2.CodeFrames) -> None:
    with pytest.raises(ValueError, match="codes"):
        unpack_codes(frames)
