"""A radio that never ends: one stream for any number of listeners, in any browser or player.

    python clients/examples/radio.py --port 8000        # then open http://localhost:8000

The station takes one piece without an end from the server, at the pace of real time, and turns to another prompt now
and then, with a fade. Listeners come in where the music is. A connection that breaks is mended by the client, with the
next sample; where the server is away for longer, the station waits and begins anew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import time

import antiphon

PROGRAMME = (
    "calm piano, 70 bpm, major",
    "a happy marimba, 120 bpm, major",
    "slow strings, 80 bpm, minor",
    "guitar with drums, 100 bpm, major",
    "trumpet with drums, 140 bpm, minor",
    "a warm organ, 60 bpm, major",
)
AHEAD_SECONDS = 2.0
FADE_SECONDS = 4.0
BACKLOG_CHUNKS = 40
"""A listener who is so many chunks behind is let go."""


class Pipe(io.BytesIO):
    """Bytes that can't be taken back, so that a WAV header says that it knows no length."""

    def seekable(self) -> bool:
        return False


class Station:
    """Takes the piece and hands it to whoever listens."""

    def __init__(self) -> None:
        self.listeners: set[asyncio.Queue[bytes | None]] = set()
        self.header = b""
        self.on_air = asyncio.Event()
        self.seconds = 0.0

    async def play(self, client: antiphon.AsyncClient, change_seconds: float, seconds: float) -> None:
        """Plays until so many seconds have gone out; 0 for ever."""
        prompts = itertools.cycle(PROGRAMME)
        while True:
            try:
                await self._piece(client, prompts, change_seconds, seconds)
                return
            except antiphon.UnavailableError as error:
                print(f"no server: {error}; again in 5 s", flush=True)
                await asyncio.sleep(5)

    async def _piece(
        self, client: antiphon.AsyncClient, prompts: itertools.cycle[str], change_seconds: float, seconds: float
    ) -> None:
        prompt, begun, sent, turn = next(prompts), time.monotonic(), 0.0, change_seconds
        stream = client.stream_generate(prompt, endless=True, initial_credit=AHEAD_SECONDS, encoding="pcm_s16le")
        async with stream:
            assert stream.started is not None
            pipe = Pipe()
            rate, channels = stream.started.sample_rate_hz, stream.started.channel_count
            antiphon.WavWriter(pipe, sample_rate_hz=rate, channel_count=channels).flush()
            self.header = pipe.getvalue()
            self.on_air.set()
            print(f"now: {prompt}", flush=True)
            async for chunk in stream:
                self._hand_out(chunk.data)
                sent += chunk.duration_seconds
                self.seconds += chunk.duration_seconds
                if seconds and self.seconds >= seconds:
                    return
                if sent >= turn:
                    prompt, turn = next(prompts), turn + change_seconds
                    stream.update(prompt, blend_steps=round(FADE_SECONDS * stream.started.frame_rate_hz))
                    print(f"next: {prompt}", flush=True)
                # As the music goes by, and not as fast as it is made.
                await asyncio.sleep(max(0.0, begun + sent - AHEAD_SECONDS / 2 - time.monotonic()))
                stream.grant(chunk.duration_seconds)

    def _hand_out(self, data: bytes) -> None:
        for listener in list(self.listeners):
            try:
                listener.put_nowait(data)
            except asyncio.QueueFull:
                self.listeners.discard(listener)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One listener, over HTTP."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(BACKLOG_CHUNKS)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
            await self.on_air.wait()
            self.listeners.add(queue)
            head = "HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + self.header)
            while queue in self.listeners and (data := await queue.get()) is not None:
                writer.write(data)
                await writer.drain()
        self.listeners.discard(queue)
        writer.close()

    def close(self) -> None:
        """Lets all listeners go."""
        for listener in self.listeners:
            with contextlib.suppress(asyncio.QueueFull):
                listener.put_nowait(None)


async def run(options: argparse.Namespace) -> None:
    begun = time.perf_counter()
    station = Station()
    server = await asyncio.start_server(station.serve, options.host, options.port)
    host, port = server.sockets[0].getsockname()[:2]
    print(f"on air: http://{host}:{port}", flush=True)
    async with antiphon.AsyncClient(options.target) as client:
        try:
            await station.play(client, options.change, options.seconds)
        finally:
            station.close()
            server.close()
    print(f"{station.seconds:.1f} s of radio; took {time.perf_counter() - begun:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="host:port; default: ANTIPHON_TARGET, else localhost:8080")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; this machine alone by default")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 for a free one")
    parser.add_argument("--change", type=float, default=30.0, help="seconds from prompt to prompt")
    parser.add_argument("--seconds", type=float, default=0.0, help="go off the air after so long; 0 for never")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
