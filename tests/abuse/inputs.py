"""What hostile callers send: strategies of hypothesis for messages, metadata and HTTP/1."""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any

import numpy as np
import soundfile
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from antiphon.v1 import analyzer_pb2, codec_pb2, generator_pb2, system_pb2

METHODS: list[MethodDescriptor] = [
    method
    for module in (generator_pb2, codec_pb2, analyzer_pb2, system_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]

PATHS = ["../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "tiny/../tiny", "tiny\x00.th", "..\\..\\secret"]
PATHS += ["%2e%2e/%2e%2e/etc/shadow", "~root/.ssh/id_rsa", "https://example.invalid/model", "/proc/self/mem"]
CONTROLS = "".join(map(chr, [*range(32), 0x7F, *range(0x80, 0xA0), 0x200B, 0x202E, 0x2066, 0xFEFF, 0xFFFE, 0x1F3B5]))
_TEXT = st.one_of(
    st.sampled_from(["", "tiny", "encodec_24khz", *PATHS, CONTROLS, "$(reboot)", "{{7*7}}", "%s%n", "A" * 5000]),
    st.text(max_size=40),
)
_INTEGERS = [0, 1, -1, 2, 7, 127, 255, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1]
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


class Bomb:
    """What a pickle of it would do when it is loaded: make a file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


def pickled(path: str) -> bytes:
    """A pickle that makes the file `path` when it is loaded."""
    return pickle.dumps({"best_state": Bomb(path)})


def silence(seconds: float, form: str = "FLAC") -> bytes:
    """A file of so much silence: a few bytes for minutes of it."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 8000, 1, format=form) as written:
        for _ in range(int(seconds // 60)):
            written.write(np.zeros(8000 * 60, np.int16))
    return file.getvalue()


def boastful_wav(seconds: float) -> bytes:
    """A WAV of one sample that claims to be as long as this."""
    size = min(int(seconds * 64_000), 2**32 - 100)
    form = struct.pack("<HHIIHH", 1, 1, 32_000, 64_000, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", size + 36)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + (b"data" + struct.pack("<I", size) + b"\0\0")
    )


FILES = [b"", b"RIFF", b"fLaC" + bytes(100), b"OggS" * 20, b"ID3\xff\xff\xff\xff", boastful_wav(1e5)]
_BYTES = st.one_of(st.sampled_from(FILES), st.binary(max_size=200))


def message(kind: Descriptor, depth: int = 4) -> st.SearchStrategy[Any]:
    """Messages of a type, with any of its fields at any value that the wire can hold."""

    @st.composite
    def made(draw: st.DrawFn) -> Any:
        built = GetMessageClass(kind)()
        for field in kind.fields:
            if (field.message_type and not depth) or not draw(st.booleans()):
                continue
            value = _value(field, depth)
            if field.is_repeated:
                getattr(built, field.name).extend(draw(st.lists(value, max_size=3)))
            elif field.message_type:
                getattr(built, field.name).CopyFrom(draw(value))
            else:
                setattr(built, field.name, draw(value))
        return built

    return made()


def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type:
        return message(field.message_type, depth - 1)
    if field.cpp_type in _RANGES:
        low, high = _RANGES[field.cpp_type]
        return st.sampled_from([number for number in _INTEGERS if low <= number <= high])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        odd = (float("nan"), float("inf"), float("-inf"))
        return st.sampled_from([0.0, -0.0, 1.0, 0.5, -1.0, 1e30, -1e30, 1e-30, *odd])
    return _TEXT if field.type == FieldDescriptor.TYPE_STRING else _BYTES


@st.composite
def calls(draw: st.DrawFn) -> tuple[MethodDescriptor, list[bytes], list[tuple[str, str]]]:
    """A method, the bytes of its requests, and metadata."""
    method = draw(st.sampled_from(METHODS))
    requests = draw(st.lists(_payload(method.input_type), min_size=0 if method.client_streaming else 1, max_size=3))
    value = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
    keys = ["x-request-id", "x-client-id", "x-antiphon-service", "x-antiphon-stream", "x-envoy-upstream-rq-timeout-ms"]
    metadata = draw(st.lists(st.tuples(st.sampled_from([*keys, "x-envoy-retry-on", "x-junk"]), value), max_size=2))
    return method, requests if method.client_streaming else requests[:1], metadata


def _payload(kind: Descriptor) -> st.SearchStrategy[bytes]:
    whole = message(kind).map(lambda built: built.SerializeToString())
    cut = st.tuples(whole, st.integers(0, 20)).map(lambda pair: pair[0][: -pair[1] or None])
    flipped = st.tuples(whole, st.integers(0, 10**6), st.integers(1, 255)).map(_flip)
    return st.one_of(whole, whole, cut, flipped, st.binary(max_size=300))


def _flip(parts: tuple[bytes, int, int]) -> bytes:
    data, place, mask = bytearray(parts[0] or b"\0"), parts[1], parts[2]
    data[place % len(data)] ^= mask
    return bytes(data)


_LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1", b"GET /models HTTP/9.9", b"PRI * HTTP/2.0", b"get /models http/1.1", b"CONNECT x:1 HTTP/1.1",
        b"POST /generate/music HTTP/1.1", b"POST /encode HTTP/1.1", b"GET //..//..//etc/passwd HTTP/1.1",
        b"GET /docs/%2e%2e/%2e%2e/etc/passwd HTTP/1.1", b"GET /%00 HTTP/1.1", b"TRACE /models HTTP/1.1", b"GET", b"",
        b"DELETE /models HTTP/1.1", b"POST /antiphon.v1.GeneratorService/Generate HTTP/1.1",
        b"GET /models?%ff=%fe HTTP/1.1",
        b"GET http://169.254.169.254/latest HTTP/1.1", b"POST /analyze?threshold=nan HTTP/1.1", b"GET /a\tb HTTP/1.1",
    ]
)  # fmt: skip
_HEADERS = st.sampled_from(
    [
        b"host: a", b"host: a\r\nhost: b", b"content-length: 5", b"content-length: -1", b"content-length: 5, 6",
        b"content-length: 99999999999999999999", b"transfer-encoding: chunked", b"transfer-encoding: chunked, gzip",
        b"content-length: 3\r\ntransfer-encoding: chunked", b"content-type: application/json", b"x: \x00", b": empty",
        b"content-type: application/grpc", b"content-type: application/grpc-web+proto", b"upgrade: websocket",
        b"connection: upgrade", b"expect: 100-continue", b"x_client_id: root", b" folded", b"te: trailers",
        b"content-encoding: gzip", b"grpc-timeout: 99999999999H", b"range: bytes=0-0,-1", b"x-client-id: root",
    ]
)  # fmt: skip


@st.composite
def http(draw: st.DrawFn) -> bytes:
    """The bytes of a request of HTTP/1, or of something like one."""
    head = b"\r\n".join([draw(_LINES), *draw(st.lists(_HEADERS, max_size=5))])
    bodies = [b"", b"hello", b'{"text": ', b'{"text": 7}', b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffff\r\n", b"\0"]
    body = draw(st.sampled_from(bodies))
    end = draw(st.sampled_from([b"\r\n\r\n", b"\r\n\r\n", b"\n\n", b"\r\n"]))
    return draw(st.sampled_from([head + end + body, draw(st.binary(max_size=200)) + b"\r\n\r\n"]))
