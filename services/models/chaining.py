"""Files that are several files one after another, as recorders of radio streams and `cat` make them.

Ogg allows it by its standard (RFC 3533, chained streams); players take MP3 and FLAC files so too. libsndfile stops at
the end of the first part, and says nothing.
"""

from __future__ import annotations

import itertools
import re

_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
"""The marker and the header of the first block, which always holds 34 bytes."""
_MP3_TAG = re.compile(rb"Info|Xing")
_MP3_TAG_OFFSETS = (36, 21, 13)
"""From the start of a frame to its tag: the header, then side information by version and channels."""


def parts_of(data: bytes) -> list[bytes]:
    """Return the parts of a file, the file itself where it is one."""
    if data[:4] == b"OggS":
        begins = _ogg_begins(data)
    elif data[:4] == b"fLaC":
        begins = [match.start() for match in _FLAC.finditer(data)]
    elif data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] >= b"\xe0"):
        begins = _mp3_begins(data)
    else:
        begins = []
    edges = [0, *(begin for begin in begins if begin), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)] if len(edges) > 2 else [data]


def _ogg_begins(data: bytes) -> list[int]:
    """Return where the first page of a stream follows a page that is none."""
    begins, position, was_first = [], 0, True
    while data[position : position + 4] == b"OggS" and position + 27 <= len(data):
        is_first = bool(data[position + 5] & 2)
        if is_first and not was_first:
            begins.append(position)
        was_first = is_first
        segments = data[position + 26]
        position += 27 + segments + sum(data[position + 27 : position + 27 + segments])
    return begins


def _mp3_begins(data: bytes) -> list[int]:
    """Return where frames begin that hold the tag of a first frame; a file without tags is read to its end anyway."""
    begins = []
    for match in _MP3_TAG.finditer(data):
        for offset in _MP3_TAG_OFFSETS:
            begin = match.start() - offset
            if begin >= 0 and data[begin] == 0xFF and data[begin + 1] & 0xE6 == 0xE2:
                begins.append(begin)
                break
    return begins[1:]
