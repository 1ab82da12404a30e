/** A piece while it is made: its chunks, its state, its controls, and how it goes on when the connection breaks. */
import { create } from "@bufbuild/protobuf";
import type { CallOptions, Client as Stub } from "@connectrpc/connect";

import { readPcm, type Audio } from "./audio.js";
import { CancelledError, ProtocolError, fromThrown, newRequestId, type AntiphonError } from "./errors.js";
import type { AudioChunk, AudioFormat } from "./gen/antiphon/v1/audio_pb.js";
import {
  ControlGenerationRequestSchema,
  GenerationControl_Action as Action,
  type AppliedUpdate,
  type GeneratorService,
  type OpenGenerationRequest,
  type StreamGenerateResponse,
} from "./gen/antiphon/v1/generator_pb.js";
import { duration, generationUpdate, readFinished, readStarted } from "./messages.js";
import type { Finished, Prompt, Sampling, Started } from "./messages.js";
import { Recovery, control, type Command } from "./recovery.js";

/** Names the replica that makes a piece. */
const STREAM_HEADER = "x-antiphon-stream";

/** A chunk of a piece. The joined samples of all are the whole. */
export interface Chunk extends Audio {
  /** Number of the chunk, from 0, without gaps. */
  readonly sequence: number;
  /** Index of its first sample (of each channel) in the piece. */
  readonly firstSample: number;
  readonly sampleCount: number;
  readonly isFinal: boolean;
}

/** When an update was taken. */
export interface Applied {
  /** Steps that had been done before it; the frame rate tells where in the audio it is. */
  readonly step: number;
  readonly prompts: readonly string[];
}

/** What a caller may watch besides the chunks. */
export interface GenerationEvents {
  onStarted?: (started: Started) => void;
  onProgress?: (steps: number, totalSteps: number) => void;
  onUpdated?: (applied: Applied) => void;
  /** The connection broke; the piece is taken up again after so many seconds. */
  onReconnect?: (error: AntiphonError, delaySeconds: number) => void;
}

/** Options of a call. */
export interface CallSettings {
  /** Cancels the call. */
  signal?: AbortSignal | undefined;
  /** Milliseconds until the call is given up; default: never. */
  timeoutMs?: number | undefined;
}

/** What a piece needs of its client. */
export interface Link {
  readonly stub: Stub<typeof GeneratorService>;
  readonly resume: boolean;
  headers(requestId: string): Headers;
}

/**
 * A running generation: `for await (const chunk of piece)`. The request goes out when it is iterated, and it is
 * iterated once. Leaving the loop cancels the call.
 */
export class Generation implements AsyncIterable<Chunk> {
  /** The id under which the server logs the call. */
  readonly requestId = newRequestId();
  readonly #link: Link;
  readonly #recovery: Recovery;
  readonly #events: GenerationEvents;
  readonly #abort = new AbortController();
  readonly #deadline: number | undefined;
  #begun = false;
  #started: Started | undefined;
  #finished: Finished | undefined;
  #format: AudioFormat | undefined;
  #reopened = false;
  #sequence = 0;
  #nextSequence = 0;
  #nextFrame = 0;
  #samples = 0;
  #finalSeen = false;
  #attempts = 0;
  /** Credit that came while the stream had no id. */
  #unsent: Command[] = [];
  #streamId = "";
  #replica = "";
  /** Commands go out one after the other, as they would on a stream. */
  #said: Promise<unknown> = Promise.resolve();

  constructor(link: Link, request: OpenGenerationRequest, events: GenerationEvents & CallSettings) {
    this.#link = link;
    this.#events = events;
    this.#recovery = new Recovery(request, link.resume);
    this.#deadline = events.timeoutMs === undefined ? undefined : Date.now() + events.timeoutMs;
    const { signal } = events;
    if (signal?.aborted) this.cancel();
    else signal?.addEventListener("abort", () => this.cancel(), { once: true });
  }

  /** What the server took the request to mean; undefined until it has said so. */
  get started(): Started | undefined {
    return this.#started;
  }

  /** How it ended; undefined until it has. */
  get finished(): Finished | undefined {
    return this.#finished;
  }

  /** Calls that were made for the piece: one more than it was taken up again. */
  get attempts(): number {
    return this.#attempts;
  }

  /** Ends the call at once; iterating on throws CancelledError. After the end it does nothing. */
  cancel(): void {
    this.#abort.abort();
  }

  /** Asks the server to make no further step until `resume`. Audio under way still comes. */
  pause(): Promise<void> {
    return this.#say(control(Action.PAUSE));
  }

  /** Asks the server to go on. */
  resume(): Promise<void> {
    return this.#say(control(Action.RESUME));
  }

  /** Asks the server to finish now: what is made still comes, then the stream ends. */
  stop(): Promise<void> {
    return this.#say(control(Action.STOP));
  }

  /**
   * Asks for other prompts, or to draw otherwise, from the next step on. What is left out stays. Over `blendSteps`
   * steps, of which there are `frameRateHz` a second, the old prompts fade into the new ones.
   */
  update(change: Sampling & { prompt?: Prompt; blendSteps?: number }): Promise<void> {
    const value = generationUpdate(change.prompt, change, change.blendSteps ?? 0);
    return this.#say(create(ControlGenerationRequestSchema, { command: { case: "update", value } }).command);
  }

  /** Lets the server send so many seconds of audio more; for a piece with `initialCredit`. */
  grant(seconds: number): Promise<void> {
    const value = { duration: duration(seconds, "credit.duration") };
    return this.#say(create(ControlGenerationRequestSchema, { command: { case: "credit", value } }).command);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Chunk, void, undefined> {
    if (this.#begun) throw new ProtocolError("the piece is iterated already");
    this.#begun = true;
    try {
      for (;;) {
        try {
          yield* this.#attempt();
          return;
        } catch (thrown) {
          await this.#wait(fromThrown(thrown, this.requestId));
        }
        this.#reopened = true;
        this.#nextSequence = 0;
      }
    } finally {
      this.cancel();
    }
  }

  /** Returns when the next attempt may begin; throws when there is to be none. */
  async #wait(error: AntiphonError): Promise<void> {
    const { signal } = this.#abort;
    if (signal.aborted) throw new CancelledError("the piece is cancelled", { requestId: this.requestId, cause: error });
    const delay = this.#finished ? undefined : this.#recovery.delaySeconds(error);
    if (delay === undefined) throw error;
    this.#streamId = "";
    this.#events.onReconnect?.(error, delay);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(done, delay * 1000);
      function done() {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      }
      signal.addEventListener("abort", done);
    });
    if (signal.aborted) throw error;
  }

  async *#attempt(): AsyncGenerator<Chunk, void, undefined> {
    this.#attempts += 1;
    // The config of a later attempt holds the credit.
    if (this.#attempts > 1) this.#unsent = [];
    const options: CallOptions = {
      signal: this.#abort.signal,
      headers: this.#link.headers(this.requestId),
      onHeader: (headers) => {
        this.#replica = headers.get(STREAM_HEADER) ?? "";
      },
    };
    if (this.#deadline !== undefined) options.timeoutMs = Math.max(1, this.#deadline - Date.now());
    for await (const message of this.#link.stub.openGeneration(this.#recovery.opening(), options)) {
      if (message.streamId) this.#opened(message.streamId);
      const chunk = message.response && this.#take(message.response.response);
      if (chunk) yield chunk;
    }
    if (!this.#finished) throw new ProtocolError("stream: it ended before the generation was finished");
  }

  #opened(streamId: string): void {
    this.#streamId = streamId;
    // What was said before there was an id, and what a broken connection swallowed. Who said it has not waited.
    const commands = [...this.#unsent, ...this.#recovery.pending()];
    this.#unsent = [];
    for (const command of commands) this.#deliver(command).catch(() => undefined);
  }

  async #say(command: Command): Promise<void> {
    if (this.#finished) return;
    this.#recovery.say(command);
    if (this.#streamId) return this.#deliver(command);
    if (command.case === "credit") this.#unsent.push(command);
  }

  async #deliver(command: Command): Promise<void> {
    try {
      await this.#send(command);
    } catch (thrown) {
      const error = fromThrown(thrown, this.requestId);
      if (this.#finished || this.#recovery.outlives(error)) return;
      this.#recovery.unsay(command);
      throw error;
    }
  }

  #send(command: Command): Promise<unknown> {
    const headers = this.#link.headers(this.requestId);
    if (this.#replica) headers.set(STREAM_HEADER, this.#replica);
    const request = create(ControlGenerationRequestSchema, { streamId: this.#streamId, command });
    const sent = this.#said.then(() => this.#link.stub.controlGeneration(request, { headers }));
    this.#said = sent.catch(() => undefined);
    return sent;
  }

  #take(response: StreamGenerateResponse["response"]): Chunk | undefined {
    const name = response.case ?? "an empty response";
    const isFirst = response.case === "started";
    if (!this.#started && !isFirst) throw new ProtocolError(`stream: ${name} came before started`);
    if (this.#started && isFirst && !this.#reopened) throw new ProtocolError("stream: started came twice");
    if (this.#finished) throw new ProtocolError(`stream: ${name} came after the end`);
    switch (response.case) {
      case "started":
        this.#reopened = false;
        this.#recovery.takeStarted(response.value);
        if (!this.#started) {
          this.#format = response.value.format;
          this.#started = readStarted(response.value);
          this.#events.onStarted?.(this.#started);
        }
        break;
      case "progress":
        this.#events.onProgress?.(response.value.steps, response.value.totalSteps);
        break;
      case "codes":
        if (response.value.firstFrame !== BigInt(this.#nextFrame)) {
          throw new ProtocolError(`codes: frame ${response.value.firstFrame} came, ${this.#nextFrame} was due`);
        }
        this.#recovery.takeCodes(response.value);
        this.#nextFrame += response.value.frameCount;
        break;
      case "audio":
        return this.#read(response.value);
      case "updated":
        this.#recovery.takeUpdate(response.value);
        this.#events.onUpdated?.(applied(response.value));
        break;
      case "finished":
        this.#finished = readFinished(response.value);
        if (this.#finished.reason === "complete" && !this.#finalSeen) {
          throw new ProtocolError("stream: it ended without a last chunk");
        }
        break;
    }
    return undefined;
  }

  #read(audio: AudioChunk): Chunk {
    if (this.#finalSeen) throw new ProtocolError(`audio: chunk ${audio.sequence} came after the last one`);
    if (audio.sequence !== BigInt(this.#nextSequence)) {
      throw new ProtocolError(`audio: chunk ${audio.sequence} came, ${this.#nextSequence} was due`);
    }
    if (audio.firstSample !== BigInt(this.#samples)) {
      throw new ProtocolError(`audio: sample ${audio.firstSample} came, ${this.#samples} was due`);
    }
    if (!this.#format) throw new ProtocolError("stream: started tells no format");
    const channels = readPcm(audio.data, this.#format);
    if (channels[0]?.length !== audio.sampleCount) {
      throw new ProtocolError(`audio: ${channels[0]?.length} samples came, the chunk announces ${audio.sampleCount}`);
    }
    const firstSample = this.#samples;
    this.#nextSequence += 1;
    this.#samples += audio.sampleCount;
    this.#finalSeen = audio.isFinal;
    this.#recovery.takeAudio(this.#samples);
    return {
      channels,
      sampleRateHz: this.#format.sampleRateHz,
      sequence: this.#sequence++,
      firstSample,
      sampleCount: audio.sampleCount,
      isFinal: audio.isFinal,
    };
  }
}

function applied({ step, update }: AppliedUpdate): Applied {
  return { step, prompts: update?.prompts.map(({ text }) => text) ?? [] };
}
