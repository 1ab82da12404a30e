"""Hostile bytes below gRPC: broken HTTP/1 and HTTP/2, connections that are opened and forgotten, endless bodies."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from contextlib import suppress

from hypothesis import given

from services.stack.ports import HOST
from services.stack.stack import Stack
from tests.abuse import inputs
from tests.abuse.calls import Codes, bounded, serve

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_TYPES = 10
SERVER_ERRORS = {"500", "502", "503", "504"}


def http1(stack: Stack, count: int) -> Codes:
    """Requests of HTTP/1 that are none; what comes back is the caller's fault, or nothing."""
    codes: Codes = Counter()

    @bounded(count)
    @given(inputs.http())
    def attack(data: bytes) -> None:
        codes[exchange(stack, data)] += 1

    attack()
    assert not SERVER_ERRORS & codes.keys(), codes
    return codes


def http2(stack: Stack, count: int) -> Codes:
    """A good preface and then frames of any type, flags, stream and content; by chance, but the same each time."""
    codes: Codes = Counter()
    dice = random.Random(7)
    for _ in range(count):
        frames = b"".join(_frame(dice) for _ in range(dice.randrange(1, 6)))
        settings = b"\0\0\0\4\0\0\0\0\0" if dice.random() < 0.8 else b""
        codes[exchange(stack, PREFACE + settings + frames)] += 1
    return codes


def _frame(dice: random.Random) -> bytes:
    body = dice.randbytes(dice.choice([0, 1, 4, 5, 8, 40, 300]))
    claimed = len(body) if dice.random() < 0.8 else dice.randrange(1 << 24)
    kind, flags, stream = (
        dice.randrange(FRAME_TYPES),
        dice.randrange(256),
        dice.choice([0, 1, 2, 3, 1 << 31, 2**32 - 1]),
    )
    return struct.pack(">I", claimed)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def exchange(stack: Stack, data: bytes) -> str:
    """Sends bytes on a connection of its own; returns the HTTP status, "h2" for frames, or "closed"."""
    with socket.create_connection((HOST, stack.ports.edge), timeout=10) as connection, suppress(OSError):
        connection.sendall(data)
        connection.settimeout(0.1)
        reply = b""
        with suppress(TimeoutError):
            reply = connection.recv(65536)
        if not reply:
            # What is not whole is waited for: there is no more.
            connection.settimeout(10)
            connection.shutdown(socket.SHUT_WR)
            reply = connection.recv(65536)
        if reply.startswith(b"HTTP/1"):
            return reply.split(b" ")[1].decode()
        if reply:
            return "h2"
    return "closed"


def large_bodies(stack: Stack) -> Codes:
    """A body that is longer than any may be, as a whole and in chunks without an end."""
    codes: Codes = Counter()
    head = b"POST /encode HTTP/1.1\r\nhost: a\r\ncontent-type: audio/wav\r\n"
    for extra, piece in (
        (b"content-length: 1099511627776\r\n\r\n", bytes(1 << 20)),
        (b"transfer-encoding: chunked\r\n\r\n", b"100000\r\n" + bytes(1 << 20) + b"\r\n"),
    ):
        with socket.create_connection((HOST, stack.ports.edge), timeout=20) as connection:
            connection.sendall(head + extra)
            with suppress(OSError):
                for _ in range(200):
                    connection.sendall(piece)
            reply = b""
            with suppress(OSError):
                reply = connection.recv(65536)
            codes[reply.split(b" ")[1].decode() if reply.startswith(b"HTTP/1") else "closed"] += 1
    assert not SERVER_ERRORS & codes.keys(), codes
    return codes


def half_open(stack: Stack, count: int) -> Codes:
    """Connections that say nothing, half a header, half a frame, half a body; meanwhile others are served."""
    beginnings = [
        b"",
        b"POST /generate/mus",
        b"POST /encode HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nRIFF",
        PREFACE[:10],
        PREFACE + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x20\1\4\0\0\0\1",
    ]
    held = []
    for number in range(count):
        connection = socket.create_connection((HOST, stack.ports.edge), timeout=10)
        connection.sendall(beginnings[number % len(beginnings)])
        held.append(connection)
    serve(stack)
    for connection in held:
        # A reset, not a farewell.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    return Counter({"held": count})


def connections(stack: Stack, count: int) -> Codes:
    """So many connections at one time, each with a request, while one more caller is served."""
    request = b"GET /v1/generator/models HTTP/1.1\r\nhost: a\r\n\r\n"

    async def ask() -> tuple[str, asyncio.StreamWriter | None]:
        try:
            reader, writer = await asyncio.open_connection(HOST, stack.ports.edge)
            writer.write(request)
            line = await asyncio.wait_for(reader.readline(), 60)
        except (OSError, TimeoutError):
            return "refused", None
        return line.split(b" ")[1].decode() if line else "closed", writer

    async def storm() -> Codes:
        asked = await asyncio.gather(*(ask() for _ in range(count)))
        await asyncio.to_thread(serve, stack)
        for _, writer in asked:
            if writer is not None:
                writer.close()
        return Counter(code for code, _ in asked)

    codes = asyncio.run(storm())
    assert codes.keys() <= {"200", "401", "429"}, codes
    return codes


def slow_headers(stack: Stack) -> Codes:
    """A header that comes letter by letter: Envoy waits ten seconds for all of it and no more."""
    with socket.create_connection((HOST, stack.ports.edge), timeout=30) as connection:
        begun = time.monotonic()
        with suppress(OSError):
            for letter in b"GET /models HTTP/1.1\r\n" + b"x: " + b"a" * 100:
                connection.sendall(bytes([letter]))
                time.sleep(0.2)
        reply = b""
        with suppress(OSError):
            reply = connection.recv(1000)
        assert time.monotonic() - begun < 28
    return Counter({reply.split(b" ")[1].decode() if reply else "closed": 1})
