/** The client of all three services at one address. It speaks gRPC-Web over fetch, so it runs in Node and in browsers. */
import { create } from "@bufbuild/protobuf";
import { createClient, type CallOptions, type Client as Stub, type Transport } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { readPcm, type Audio } from "./audio.js";
import { ProtocolError, fromThrown, newRequestId } from "./errors.js";
import {
  AnalyzeRequestSchema,
  AnalyzerService,
  Verdict,
  type AnalyzeResponse,
  type WindowResult,
} from "./gen/antiphon/v1/analyzer_pb.js";
import { AudioEncoding, type CodeFrames, type ModelInfo } from "./gen/antiphon/v1/audio_pb.js";
import { CodecService, DecodeRequestSchema, EncodeRequestSchema, type CodecInfo } from "./gen/antiphon/v1/codec_pb.js";
import { GeneratorService } from "./gen/antiphon/v1/generator_pb.js";
import { SystemService } from "./gen/antiphon/v1/system_pb.js";
import { Generation, type CallSettings, type GenerationEvents } from "./generation.js";
import { generationRequest, refused, seconds, type GenerationOptions, type Prompt } from "./messages.js";

/** Where the server is, and how it is called. */
export interface ClientOptions {
  /** The edge's address, such as "http://localhost:8080"; in a browser by default the page's own. */
  baseUrl?: string;
  /** Sent as a bearer token. */
  apiKey?: string | undefined;
  /** False to throw when a stream's connection breaks, instead of going on in another call. */
  resume?: boolean;
  /** Makes the HTTP requests; default: the global fetch. */
  fetch?: typeof globalThis.fetch;
  /** Any transport of connect, in place of gRPC-Web over fetch. */
  transport?: Transport;
}

/** What `encode` returns, and `decode` takes. */
export interface EncodedAudio {
  readonly model: string;
  readonly codes: CodeFrames;
  /** Samples of each channel, without padding. */
  readonly sampleCount: number;
  readonly sampleRateHz: number;
  readonly channelCount: number;
  readonly bandwidthKbps: number;
}

/** What to encode with. */
export interface EncodeOptions extends CallSettings {
  model?: string;
  /** Bits a second, in kilobits: rounded down to whole codebooks. Default: all codebooks. */
  bandwidthKbps?: number;
  /** Codebooks, in place of the bandwidth. */
  codebookCount?: number;
}

/** What to analyze with. */
export interface AnalyzeOptions extends CallSettings {
  model?: string;
  /** Decides `isReal` alone, 0 to 1; default 0.5. */
  threshold?: number;
  /** True to get pictures of what the discriminators made of the audio. */
  includeImages?: boolean;
}

/** The scores of a window of audio, 0 to 1; high means real. */
export interface AnalyzedWindow extends Scores {
  readonly startSeconds: number;
  readonly durationSeconds: number;
  /** Calibrated probability that a neural decoder made it; undefined when not calibrated. */
  readonly generatedProbability: number | undefined;
  readonly verdict: VerdictName;
}

export interface Scores {
  readonly mpd: number;
  readonly msd: number;
  readonly msstftd: number;
}

export type VerdictName = "none" | "real" | "generated" | "inconclusive";

/** What the scores amount to. */
export interface Analysis extends Scores {
  readonly verdict: VerdictName;
  /** Why there is no verdict, in words; else empty. */
  readonly reason: string;
  readonly isReal: boolean | undefined;
  readonly generatedProbability: number | undefined;
  /** At or above this probability the verdict is "generated". */
  readonly generatedThreshold: number | undefined;
  /** At or below this probability the verdict is "real". */
  readonly realThreshold: number | undefined;
  readonly windows: readonly AnalyzedWindow[];
  readonly model: ModelInfo | undefined;
  readonly trainingSources: readonly string[];
  readonly images: readonly EvidencePicture[];
}

/** A picture of the evidence. */
export interface EvidencePicture {
  readonly name: string;
  readonly png: Uint8Array;
  readonly startSeconds: number;
  readonly durationSeconds: number;
}

/** Calls the generator, the codec and the analyzer. Every method throws AntiphonError; see `errors`. */
export class Client {
  readonly #generator: Stub<typeof GeneratorService>;
  readonly #codec: Stub<typeof CodecService>;
  readonly #analyzer: Stub<typeof AnalyzerService>;
  readonly #system: Stub<typeof SystemService>;
  readonly #resume: boolean;
  readonly #apiKey: string | undefined;

  constructor(options: ClientOptions = {}) {
    const baseUrl = options.baseUrl ?? globalThis.location?.origin ?? "http://localhost:8080";
    const fetching = options.fetch ? { fetch: options.fetch } : {};
    const transport = options.transport ?? createGrpcWebTransport({ baseUrl, ...fetching });
    this.#generator = createClient(GeneratorService, transport);
    this.#codec = createClient(CodecService, transport);
    this.#analyzer = createClient(AnalyzerService, transport);
    this.#system = createClient(SystemService, transport);
    this.#resume = options.resume ?? true;
    this.#apiKey = options.apiKey;
  }

  /**
   * Makes a piece and streams it while it is made: `for await (const chunk of client.generate("slow sad piano"))`.
   * When the connection breaks, or the server goes down, another call goes on with the next sample.
   */
  generate(prompt: Prompt, options: GenerationOptions & GenerationEvents & CallSettings = {}): Generation {
    const link = { stub: this.#generator, resume: this.#resume, headers: (id: string) => this.#headers(id) };
    return new Generation(link, generationRequest(prompt, options), options);
  }

  /** Lists the models of all services. */
  async listModels(settings: CallSettings = {}): Promise<ModelInfo[]> {
    return this.#call(settings, async (options) => (await this.#system.listModels({}, options)).models);
  }

  /** Lists the codecs, the default first, with what is particular to them. */
  async listCodecs(settings: CallSettings = {}): Promise<{ model: ModelInfo; codec: CodecInfo }[]> {
    return this.#call(settings, async (options) => {
      const { models, codecs } = await this.#codec.listModels({}, options);
      return models.flatMap((model, index) => (codecs[index] ? [{ model, codec: codecs[index] }] : []));
    });
  }

  /** Asks how the services are: "healthy" or "degraded", and what does not answer. */
  async health(settings: CallSettings = {}): Promise<{ status: string; version: string; unavailable: string[] }> {
    return this.#call(settings, async (options) => {
      const { status, version, unavailable } = await this.#system.getHealth({}, options);
      return { status, version, unavailable };
    });
  }

  /** Turns the bytes of an audio file into codes. */
  async encode(audio: Uint8Array, options: EncodeOptions = {}): Promise<EncodedAudio> {
    const { model = "", bandwidthKbps = 0, codebookCount = 0 } = options;
    const request = create(EncodeRequestSchema, { model, bandwidthKbps, codebookCount, audio: { data: audio } });
    return this.#call(options, async (settings) => {
      const reply = await this.#codec.encode(request, settings);
      if (!reply.codes || !reply.format) throw new ProtocolError("encode: a reply without codes");
      const { sampleRateHz, channelCount } = reply.format;
      const sampleCount = Number(reply.sampleCount);
      return { model: reply.model, codes: reply.codes, sampleCount, sampleRateHz, channelCount, bandwidthKbps: reply.bandwidthKbps };
    });
  }

  /** Turns codes into audio. */
  async decode(encoded: EncodedAudio, settings: CallSettings = {}): Promise<Audio> {
    const { model, codes } = encoded;
    const request = create(DecodeRequestSchema, {
      model,
      codes,
      sampleCount: BigInt(encoded.sampleCount),
      outputFormat: { encoding: AudioEncoding.PCM_F32LE },
    });
    return this.#call(settings, async (options) => {
      const reply = await this.#codec.decode(request, options);
      if (!reply.format) throw new ProtocolError("decode: a reply without a format");
      return { channels: readPcm(reply.audio, reply.format), sampleRateHz: reply.format.sampleRateHz };
    });
  }

  /** Looks for evidence that a neural decoder made the audio, given as the bytes of a file. */
  async analyze(audio: Uint8Array, options: AnalyzeOptions = {}): Promise<Analysis> {
    const { model = "", threshold, includeImages = false } = options;
    if (threshold !== undefined && !Number.isFinite(threshold)) throw refused("threshold", `${threshold} is no number`);
    const request = create(AnalyzeRequestSchema, { model, includeImages, audio: { data: audio } });
    if (threshold !== undefined) request.threshold = threshold;
    return this.#call(options, async (settings) => readAnalysis(await this.#analyzer.analyze(request, settings)));
  }

  #headers(requestId: string): Headers {
    const headers = new Headers({ "x-request-id": requestId });
    if (this.#apiKey) headers.set("authorization", `Bearer ${this.#apiKey}`);
    return headers;
  }

  async #call<T>({ signal, timeoutMs }: CallSettings, make: (options: CallOptions) => Promise<T>): Promise<T> {
    const requestId = newRequestId();
    const options: CallOptions = { headers: this.#headers(requestId) };
    if (signal) options.signal = signal;
    if (timeoutMs !== undefined) options.timeoutMs = timeoutMs;
    try {
      return await make(options);
    } catch (thrown) {
      throw fromThrown(thrown, requestId);
    }
  }
}

const VERDICTS: Readonly<Record<Verdict, VerdictName>> = {
  [Verdict.UNSPECIFIED]: "none",
  [Verdict.REAL]: "real",
  [Verdict.GENERATED]: "generated",
  [Verdict.INCONCLUSIVE]: "inconclusive",
};

function readScores(of: WindowResult | AnalyzeResponse): Scores {
  return { mpd: of.mpdScore, msd: of.msdScore, msstftd: of.msstftdScore };
}

function readAnalysis(reply: AnalyzeResponse): Analysis {
  return {
    ...readScores(reply),
    verdict: VERDICTS[reply.verdict] ?? "none",
    reason: reply.reason,
    isReal: reply.isReal,
    generatedProbability: reply.generatedProbability,
    generatedThreshold: reply.generatedThreshold,
    realThreshold: reply.realThreshold,
    windows: reply.windows.map((window) => ({
      ...readScores(window),
      startSeconds: seconds(window.start),
      durationSeconds: seconds(window.duration),
      generatedProbability: window.generatedProbability,
      verdict: VERDICTS[window.verdict] ?? "none",
    })),
    model: reply.model,
    trainingSources: reply.trainingSources,
    images: reply.images.map(({ name, png, start, duration }) => ({
      name,
      png,
      startSeconds: seconds(start),
      durationSeconds: seconds(duration),
    })),
  };
}
