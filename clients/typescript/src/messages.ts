/** Arguments to messages, and messages to values. */
import { create } from "@bufbuild/protobuf";
import { DurationSchema, type Duration } from "@bufbuild/protobuf/wkt";

import { PCM, type PcmEncoding } from "./audio.js";
import { InvalidArgumentError } from "./errors.js";
import { AudioEncoding } from "./gen/antiphon/v1/audio_pb.js";
import {
  GenerationConfigSchema,
  GenerationFinished_Reason as Reason,
  GenerationUpdateSchema,
  OpenGenerationRequestSchema,
  PromptAudioUse,
  SamplingParametersSchema,
  WeightedPromptSchema,
  type GenerationFinished,
  type GenerationStarted,
  type GenerationUpdate,
  type OpenGenerationRequest,
  type SamplingParameters,
  type WeightedPrompt,
} from "./gen/antiphon/v1/generator_pb.js";

/** A text, or up to eight texts, each alone or with its weight. */
export type Prompt = string | readonly (string | readonly [text: string, weight: number])[];

/** How tokens are drawn. What is left out is the server's default. */
export interface Sampling {
  /** Divides the logits; above 0 and at most 10; default 1. */
  temperature?: number;
  /** Draw from the k likeliest tokens; 0 for no limit; default 250. Not used when topP is above 0. */
  topK?: number;
  /** Draw from the likeliest tokens whose probabilities sum to p, 0 to 1; 0, the default, for no limit. */
  topP?: number;
  /** Strength of classifier-free guidance, 0 to 20; 1 for none; default 3. */
  cfgCoef?: number;
  /** False takes the likeliest token always; default true. */
  useSampling?: boolean;
}

/** What may be said of a generation besides its prompt. What is left out is the server's default. */
export interface GenerationOptions extends Sampling {
  /** Name of the model as in `listModels`; default: the server's. */
  model?: string;
  /** Seconds, above 0 and at most the model's maximum; default 10. */
  duration?: number;
  /** The same seed with the same other arguments gives the same tokens; default: drawn by the server. */
  seed?: bigint | number;
  /** True for a piece that goes on until `stop`; `duration` is then not used. */
  endless?: boolean;
  /** Seconds of audio that the server may send before `grant`; default: no limit. */
  initialCredit?: number;
  /** An audio file that the piece begins with and goes on from; `duration` counts both. */
  continueFrom?: Uint8Array;
  /** An audio file whose melody the piece keeps; for melody checkpoints, and not with `continueFrom`. */
  melody?: Uint8Array;
  /** Seconds from one window of a long piece to the next; default: the model's. */
  extendStride?: number;
  /** How the samples travel; default "pcm_s16le", half the bytes of "pcm_f32le". */
  encoding?: PcmEncoding;
}

/** What the server took the request to mean. */
export interface Started extends Required<Sampling> {
  readonly model: string;
  readonly prompts: readonly (readonly [text: string, weight: number])[];
  /** 0 for an endless piece, as are the totals. */
  readonly durationSeconds: number;
  readonly seed: bigint;
  readonly sampleRateHz: number;
  readonly channelCount: number;
  readonly frameRateHz: number;
  readonly totalSamples: number;
  readonly totalSteps: number;
  readonly modelVersion: string;
}

/** How a generation ended. */
export interface Finished {
  readonly reason: "complete" | "stopped" | "unspecified";
  readonly audioSeconds: number;
  readonly steps: number;
  readonly queueSeconds: number;
  readonly firstAudioSeconds: number;
  readonly totalSeconds: number;
}

/** Builds the request of a generation. Throws InvalidArgumentError for what the wire can't carry. */
export function generationRequest(prompt: Prompt, options: GenerationOptions): OpenGenerationRequest {
  const { endless = false, encoding = "pcm_s16le", continueFrom, melody, seed } = options;
  if (continueFrom && melody) throw refused("melody", "give either this or continueFrom");
  const config = create(GenerationConfigSchema, {
    model: options.model ?? "",
    prompts: weighted(prompt),
    endless,
    outputFormat: { encoding: PCM[encoding] },
  });
  if (!endless) config.duration = duration(options.duration ?? 10, "duration");
  const drawn = sampling(options);
  if (drawn) config.sampling = drawn;
  if (seed !== undefined) config.seed = unsigned(seed, "seed");
  if (options.initialCredit !== undefined) {
    const initialCredit = duration(options.initialCredit, "pacing.initial_credit");
    config.pacing = { $typeName: "antiphon.v1.Pacing", initialCredit };
  }
  if (options.extendStride !== undefined) config.extendStride = duration(options.extendStride, "extend_stride");
  const promptAudio = continueFrom ?? melody;
  const request = create(OpenGenerationRequestSchema, { config });
  if (promptAudio) {
    request.promptAudio = promptAudio;
    // Any encoding with a header: the server looks at the file itself.
    config.promptAudio = create(GenerationConfigSchema, {
      promptAudio: {
        format: { encoding: AudioEncoding.WAV },
        use: melody ? PromptAudioUse.MELODY : PromptAudioUse.CONTINUATION,
      },
    }).promptAudio;
  }
  return request;
}

/** Builds a change in mid-stream. */
export function generationUpdate(prompt: Prompt | undefined, options: Sampling, blendSteps: number): GenerationUpdate {
  const update = create(GenerationUpdateSchema, { prompts: prompt === undefined ? [] : weighted(prompt) });
  if (!Number.isInteger(blendSteps) || blendSteps < 0) throw refused("blend_steps", `${blendSteps} is no count`);
  update.blendSteps = blendSteps;
  const drawn = sampling(options);
  if (drawn) update.sampling = drawn;
  return update;
}

/** Reads the first response of a generation. */
export function readStarted(started: GenerationStarted): Started {
  const { config, format } = started;
  const drawn = config?.sampling;
  return {
    model: config?.model ?? "",
    prompts: (config?.prompts ?? []).map(({ text, weight }) => [text, weight ?? 1] as const),
    durationSeconds: seconds(config?.duration),
    seed: config?.seed ?? 0n,
    temperature: drawn?.temperature ?? 1,
    topK: drawn?.topK ?? 0,
    topP: drawn?.topP ?? 0,
    cfgCoef: drawn?.cfgCoef ?? 1,
    useSampling: drawn?.useSampling ?? true,
    sampleRateHz: format?.sampleRateHz ?? 0,
    channelCount: format?.channelCount ?? 0,
    frameRateHz: started.frameRateHz,
    totalSamples: Number(started.totalSamples),
    totalSteps: started.totalSteps,
    modelVersion: started.modelVersion,
  };
}

/** Reads the last response of a generation. */
export function readFinished(finished: GenerationFinished): Finished {
  return {
    reason: ({ [Reason.COMPLETE]: "complete", [Reason.STOPPED]: "stopped" } as const)[finished.reason as 1 | 2] ?? "unspecified",
    audioSeconds: seconds(finished.audioDuration),
    steps: finished.steps,
    queueSeconds: seconds(finished.queueTime),
    firstAudioSeconds: seconds(finished.firstAudioTime),
    totalSeconds: seconds(finished.totalTime),
  };
}

/** Returns a length of time in seconds; 0 where there is none. */
export function seconds(length: Duration | undefined): number {
  return length ? Number(length.seconds) + length.nanos / 1e9 : 0;
}

/** Returns a length of time as a message. */
export function duration(length: number, field: string): Duration {
  if (!Number.isFinite(length)) throw refused(field, `${length} is not a length of time in seconds`);
  const nanos = Math.round((length - Math.trunc(length)) * 1e9);
  const carry = Math.trunc(nanos / 1e9);
  return create(DurationSchema, { seconds: BigInt(Math.trunc(length) + carry), nanos: nanos - carry * 1e9 });
}

/** Returns the error for a field that is wrong before it is sent. */
export function refused(field: string, description: string): InvalidArgumentError {
  return new InvalidArgumentError(`${field}: ${description}`, { violations: [{ field, description }] });
}

function weighted(prompt: Prompt): WeightedPrompt[] {
  const entries = typeof prompt === "string" ? [prompt] : prompt;
  return entries.map((entry) =>
    typeof entry === "string"
      ? create(WeightedPromptSchema, { text: entry })
      : create(WeightedPromptSchema, { text: entry[0], weight: entry[1] }),
  );
}

function sampling({ temperature, topK, topP, cfgCoef, useSampling }: Sampling): SamplingParameters | undefined {
  const given = Object.entries({ temperature, topK, topP, cfgCoef, useSampling }).filter(([, value]) => value !== undefined);
  if (topK !== undefined && !Number.isInteger(topK)) throw refused("sampling.top_k", `${topK} is no whole number`);
  return given.length ? create(SamplingParametersSchema, Object.fromEntries(given)) : undefined;
}

function unsigned(value: bigint | number, field: string): bigint {
  if (typeof value === "number" && !Number.isSafeInteger(value)) throw refused(field, `${value} is no whole number`);
  const whole = BigInt(value);
  if (whole < 0n || whole >= 1n << 64n) throw refused(field, `${whole} is not 0 to 2^64 - 1`);
  return whole;
}
