/** How a generation whose connection broke is taken up again: what is sent, and when. Nothing here waits. */
import { clone, create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";

import { packCodes, unpackCodes } from "./codes.js";
import type { AntiphonError } from "./errors.js";
import type { CodeFrames } from "./gen/antiphon/v1/audio_pb.js";
import {
  ControlGenerationRequestSchema,
  GenerationConfigSchema,
  GenerationControl_Action as Action,
  OpenGenerationRequestSchema,
  ResumePointSchema,
  type AppliedUpdate,
  type ControlGenerationRequest,
  type GenerationConfig,
  type GenerationStarted,
  type OpenGenerationRequest,
} from "./gen/antiphon/v1/generator_pb.js";
import { duration, seconds } from "./messages.js";

/** Attempts in a row that bring nothing new; then the error is thrown. */
export const MAX_ATTEMPTS = 8;
/** So many attempts take at most a second and a half: who calls a server that is not there soon knows. */
export const MAX_ATTEMPTS_BEFORE_START = 4;
const FIRST_DELAY_SECONDS = 0.1;
const MAX_DELAY_SECONDS = 5;

/** What is said to a running piece. */
export type Command = ControlGenerationRequest["command"];

/**
 * What a generation would need to go on elsewhere: the effective config, the codes, and what was said since.
 *
 * A stream that the server has started has a seed, and what follows is a function of what the client knows: nothing is
 * done twice that could differ. One that has not is begun anew where nobody answered, for nothing of it was heard; a
 * full queue is told to the caller, who may not want to wait.
 */
export class Recovery {
  #config: GenerationConfig;
  readonly #promptAudio: Uint8Array;
  readonly #enabled: boolean;
  #started = false;
  #modelVersion = "";
  #sampleRateHz = 0;
  #attempts = 0;
  readonly #codes: Uint16Array[] = [];
  #codebooks = 0;
  #bits = 0;
  #samples = 0;
  #granted: number;
  readonly #applied: AppliedUpdate[] = [];
  readonly #asked: Command[] = [];
  #paused = false;
  #stopped = false;

  constructor(request: OpenGenerationRequest, enabled: boolean) {
    this.#config = clone(GenerationConfigSchema, request.config ?? create(GenerationConfigSchema));
    this.#config.includeCodes ||= enabled;
    this.#promptAudio = request.promptAudio;
    this.#enabled = enabled;
    this.#granted = seconds(this.#config.pacing?.initialCredit);
  }

  /** Returns the request of the next attempt. */
  opening(): OpenGenerationRequest {
    const config = clone(GenerationConfigSchema, this.#config);
    if (this.#started) this.#putResume(config);
    if (config.pacing?.initialCredit) {
      const heard = this.#sampleRateHz ? this.#samples / this.#sampleRateHz : 0;
      config.pacing.initialCredit = duration(Math.max(0, this.#granted - heard), "pacing.initial_credit");
    }
    return create(OpenGenerationRequestSchema, { config, promptAudio: this.#promptAudio });
  }

  /** Returns what must be said once the next attempt has begun. */
  pending(): Command[] {
    const actions = [this.#paused ? Action.PAUSE : 0, this.#stopped ? Action.STOP : 0].filter(Boolean);
    const controls = actions.map((action) => control(action));
    return [...this.#asked, ...controls];
  }

  /**
   * Returns how long to wait before the next attempt; undefined when the error is to be thrown.
   *
   * Full jitter: anything between nothing and a limit that doubles, so that the callers of a server that fell do not
   * come back together. A server that says when to come again is believed.
   */
  delaySeconds(error: AntiphonError): number | undefined {
    const isToGoOn = isLost(error) || (this.#started && error.code === Code.ResourceExhausted);
    const most = this.#started ? MAX_ATTEMPTS : MAX_ATTEMPTS_BEFORE_START;
    if (!(this.#enabled && isToGoOn) || this.#attempts >= most) return undefined;
    const limit = Math.min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** this.#attempts);
    this.#attempts += 1;
    return (error.retryAfterSeconds ?? 0) + Math.random() * limit;
  }

  /** Whether a command that fails with this is repeated by itself in the next attempt. */
  outlives(error: AntiphonError): boolean {
    // NOT_FOUND: the piece's replica is gone, and the stream is about to tell.
    return this.#enabled && (isLost(error) || [Code.NotFound, Code.ResourceExhausted].includes(error.code));
  }

  /** Keeps the effective config. */
  takeStarted(started: GenerationStarted): void {
    if (this.#started || !started.config) return;
    this.#started = true;
    this.#attempts = 0;
    this.#modelVersion = started.modelVersion;
    this.#sampleRateHz = started.format?.sampleRateHz ?? 0;
    this.#config = clone(GenerationConfigSchema, started.config);
    this.#config.includeCodes ||= this.#enabled;
  }

  /** Keeps codes, which a later attempt begins with. */
  takeCodes(frames: CodeFrames): void {
    this.#codes.push(unpackCodes(frames));
    this.#codebooks = frames.codebookCount;
    this.#bits = frames.bitsPerCode;
  }

  /** Keeps how many samples of the piece have come. */
  takeAudio(samples: number): void {
    this.#samples = samples;
    this.#attempts = 0;
  }

  /** Keeps when the oldest update that was asked for was taken. */
  takeUpdate(applied: AppliedUpdate): void {
    this.#asked.shift();
    this.#applied.push(applied);
  }

  /** Keeps what the caller says in mid-stream. */
  say(command: Command): void {
    if (command.case === "update") this.#asked.push(command);
    else if (command.case === "credit") this.#granted += seconds(command.value.duration);
    else if (command.case === "control") {
      this.#stopped ||= command.value.action === Action.STOP;
      this.#paused = command.value.action === Action.PAUSE;
    }
  }

  /** Forgets an update that the server refused. */
  unsay(command: Command): void {
    const index = this.#asked.indexOf(command);
    if (index >= 0) this.#asked.splice(index, 1);
  }

  #putResume(config: GenerationConfig): void {
    const count = this.#codes.reduce((sum, part) => sum + part.length, 0);
    const codes = new Uint16Array(count);
    let at = 0;
    for (const part of this.#codes) {
      codes.set(part, at);
      at += part.length;
    }
    config.resume = create(ResumePointSchema, {
      receivedSamples: BigInt(this.#samples),
      updates: this.#applied,
      modelVersion: this.#modelVersion,
    });
    if (count) config.resume.codes = packCodes(codes, this.#codebooks, this.#bits);
  }
}

/** Returns the command for an action. */
export function control(action: Action): Command {
  return create(ControlGenerationRequestSchema, { command: { case: "control", value: { action } } }).command;
}

/** Whether the call may go on elsewhere: its connection or its server is gone. */
function isLost(error: AntiphonError): boolean {
  return error.code === Code.Unavailable;
}
