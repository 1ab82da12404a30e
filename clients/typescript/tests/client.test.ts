/** The client against a real server, whose address is in ANTIPHON_URL. */
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  CancelledError,
  Client,
  InvalidArgumentError,
  NotFoundError,
  UnavailableError,
  joined,
  packCodes,
  toWav,
  unpackCodes,
  type Audio,
  type Chunk,
  type Generation,
} from "../src/index.js";

const baseUrl = process.env["ANTIPHON_URL"] ?? "http://localhost:8080";
const client = new Client({ baseUrl });
const PROMPT = "a happy fast marimba melody, 120 bpm";
const SECONDS = 3;
const PIECE = { duration: SECONDS, seed: 7n } as const;

async function collect(piece: Generation): Promise<Audio> {
  const chunks: Chunk[] = [];
  for await (const chunk of piece) chunks.push(chunk);
  return joined(chunks);
}

/** A fetch whose first `times` answers to OpenGeneration break off after so many bytes. */
function breaking(times: number, bytes: number): typeof fetch {
  let left = times;
  return async (input, init) => {
    const reply = await fetch(input, init);
    if (!String(input).endsWith("/OpenGeneration") || left === 0 || !reply.body) return reply;
    left -= 1;
    let room = bytes;
    const cut = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        controller.enqueue(chunk.subarray(0, room));
        room -= chunk.length;
        if (room <= 0) controller.error(new TypeError("terminated"));
      },
    });
    return new Response(reply.body.pipeThrough(cut), { headers: reply.headers, status: reply.status });
  };
}

test("codes are packed as audio.proto says", () => {
  const codes = Uint16Array.of(1, 2, 3, 4);
  const frames = packCodes(codes, 2, 4);
  assert.deepEqual([...frames.data], [0x21, 0x43]);
  for (const bits of [1, 9, 10, 16]) {
    const drawn = Uint16Array.from({ length: 33 }, (_, n) => (n * 40_503) % 2 ** bits);
    assert.deepEqual(unpackCodes(packCodes(drawn, 3, bits)), drawn);
  }
});

test("a piece streams, and its samples are those of REST", async () => {
  const piece = client.generate(PROMPT, PIECE);
  const audio = await collect(piece);
  const started = piece.started;
  assert.ok(started);
  assert.equal(started.seed, 7n);
  assert.equal(started.prompts[0]?.[0], PROMPT);
  assert.equal(audio.channels[0]?.length, started.totalSamples);
  assert.equal(piece.finished?.reason, "complete");
  assert.equal(piece.attempts, 1);
  const reply = await fetch(`${baseUrl}/generate/music`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ text: PROMPT, duration: SECONDS, seed: 7 }),
  });
  assert.deepEqual(new Uint8Array(await reply.arrayBuffer()).subarray(44), toWav(audio).subarray(44));
});

test("a broken connection goes on with the next sample, changes and all", async () => {
  const run = async (one: Client): Promise<[Audio, Generation, number]> => {
    let at = -1;
    const piece = one.generate(PROMPT, { ...PIECE, initialCredit: 1, onUpdated: ({ step }) => (at = step) });
    const chunks: Chunk[] = [];
    let granted = false;
    for await (const chunk of piece) {
      chunks.push(chunk);
      // All the credit is used, so the change comes after the first second.
      if (!granted && chunk.firstSample + chunk.sampleCount === chunk.sampleRateHz) {
        granted = true;
        await piece.update({ prompt: "dark slow strings", blendSteps: 20, cfgCoef: 4 });
        await piece.grant(SECONDS);
      }
    }
    return [joined(chunks), piece, at];
  };
  const plain = (await collect(client.generate(PROMPT, PIECE))).channels[0];
  assert.ok(plain);
  const rate = plain.length / SECONDS;
  // Once before the change, once after it: 16-bit samples of half a second, and of one and a half.
  for (const bytes of [rate, rate * 3]) {
    const [audio, piece, step] = await run(new Client({ baseUrl, fetch: breaking(1, bytes) }));
    const samples = audio.channels[0];
    assert.ok(samples);
    assert.equal(piece.attempts, 2);
    assert.equal(samples.length, plain.length);
    assert.ok(step > 0);
    // When the change is taken depends on the server's pace; before it, all is as without it.
    assert.deepEqual(samples.subarray(0, rate), plain.subarray(0, rate));
    assert.notDeepEqual(samples.subarray(rate), plain.subarray(rate));
  }
});

test("a connection that keeps breaking brings the piece all the same", async () => {
  const whole = await collect(client.generate(PROMPT, PIECE));
  const piece = new Client({ baseUrl, fetch: breaking(3, 40_000) }).generate(PROMPT, PIECE);
  assert.deepEqual(toWav(await collect(piece)), toWav(whole));
  assert.equal(piece.attempts, 4);
});

test("a piece that nobody began is begun again, a few times", async () => {
  let refusals = 2;
  const refusing: typeof fetch = (input, init) => {
    if (!String(input).endsWith("/OpenGeneration") || refusals-- <= 0) return fetch(input, init);
    return Promise.resolve(new Response("upstream connect error", { status: 503 }));
  };
  const one = new Client({ baseUrl, fetch: refusing });
  const piece = one.generate(PROMPT, PIECE);
  assert.deepEqual(toWav(await collect(piece)), toWav(await collect(client.generate(PROMPT, PIECE))));
  assert.equal(piece.attempts, 3);
  refusals = Infinity;
  const never = one.generate(PROMPT, PIECE);
  await assert.rejects(collect(never), UnavailableError);
  assert.equal(never.attempts, 5);
});

test("without resume the break is an error", async () => {
  const piece = new Client({ baseUrl, resume: false, fetch: breaking(1, 40_000) }).generate(PROMPT, PIECE);
  await assert.rejects(collect(piece), UnavailableError);
});

test("a piece without an end is paced, paused, changed and stopped", async () => {
  const updates: string[] = [];
  const piece = client.generate(PROMPT, {
    endless: true,
    seed: 3,
    initialCredit: 1,
    onUpdated: ({ prompts }) => updates.push(...prompts),
  });
  let heard = 0;
  let paused = false;
  let stopped = false;
  for await (const chunk of piece) {
    heard += chunk.sampleCount / chunk.sampleRateHz;
    if (heard < 1 - 1e-6) continue;
    if (!paused) {
      paused = true;
      assert.ok(Math.abs(heard - 1) < 1e-6, `${heard} s came for a credit of 1 s`);
      await piece.pause();
      await piece.update({ prompt: "loud drums", temperature: 0.9 });
      await piece.resume();
      await piece.grant(1);
    } else if (heard > 2 - 1e-6 && !stopped) {
      stopped = true;
      await assert.rejects(piece.update({ temperature: -1 }), InvalidArgumentError);
      await piece.stop();
    }
  }
  assert.deepEqual(updates, ["loud drums"]);
  assert.equal(piece.finished?.reason, "stopped");
});

test("errors have a type, and tell what is wrong", async () => {
  await assert.rejects(collect(client.generate("", { temperature: 11 })), (error) => {
    assert.ok(error instanceof InvalidArgumentError);
    assert.match(error.violations[0]?.field ?? "", /temperature/);
    assert.ok(error.requestId);
    return true;
  });
  await assert.rejects(collect(client.generate("", { model: "none" })), NotFoundError);
  await assert.rejects(client.encode(new TextEncoder().encode("no audio")), InvalidArgumentError);
  await assert.rejects(new Client({ baseUrl: "http://127.0.0.1:9" }).health(), UnavailableError);
  const cancelled = client.generate(PROMPT, { endless: true });
  await assert.rejects(async () => {
    for await (const _ of cancelled) cancelled.cancel();
  }, CancelledError);
});

test("encode and decode give the length back, and fewer codebooks fewer bits", async () => {
  const audio = await collect(client.generate(PROMPT, PIECE));
  const wav = toWav(audio);
  const [all, one] = await Promise.all([client.encode(wav), client.encode(wav, { codebookCount: 1 })]);
  assert.ok(one.bandwidthKbps < all.bandwidthKbps);
  assert.equal(all.sampleCount, audio.channels[0]?.length);
  const decoded = await client.decode(all);
  assert.equal(decoded.channels[0]?.length, all.sampleCount);
  assert.ok(decoded.channels[0]?.some((sample) => Math.abs(sample) > 0.01));
});

test("analyze tells of every window", async () => {
  const audio = await collect(client.generate(PROMPT, PIECE));
  const analysis = await client.analyze(toWav(audio), { includeImages: true });
  assert.ok(analysis.windows.length > 0);
  assert.equal(analysis.windows[0]?.startSeconds, 0);
  for (const score of [analysis.mpd, analysis.msd, analysis.msstftd]) assert.ok(score >= 0 && score <= 1);
  assert.ok(["none", "real", "generated", "inconclusive"].includes(analysis.verdict));
  assert.deepEqual([...(analysis.images[0]?.png.subarray(1, 4) ?? [])], [...new TextEncoder().encode("PNG")]);
});

test("the server tells what it has, and how it is", async () => {
  const models = await client.listModels();
  assert.ok(models.length >= 3);
  assert.equal((await client.health()).status, "healthy");
  assert.ok((await client.listCodecs())[0]?.codec.samplesPerFrame);
});
