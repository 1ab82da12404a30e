/** Sound: an audio context at the model's rate, the jitter buffer in its thread, and a meter behind it. */
import type { Audio } from "@antiphon/client";

import type { Order, Report } from "./worklet.js";

const WORKLET = "/worklet.js";

export class Player {
  readonly context: AudioContext;
  /** Called some thirty times a second while sound runs. */
  onReport: (report: Report) => void = () => undefined;
  readonly #meter: AnalyserNode;
  readonly #levels: Float32Array<ArrayBuffer>;
  readonly #volume: GainNode;
  #node: AudioWorkletNode | undefined;
  /** Reports on their way when all was cleared are of the piece before. */
  #cleared = true;

  /** Throws where pages may not make sound: it takes https, or localhost. */
  constructor(sampleRateHz: number) {
    if (!globalThis.isSecureContext) throw new Error("browsers play only on https, or on localhost");
    this.context = new AudioContext({ sampleRate: sampleRateHz, latencyHint: "playback" });
    this.#meter = this.context.createAnalyser();
    this.#meter.fftSize = 1024;
    this.#levels = new Float32Array(this.#meter.fftSize);
    this.#volume = this.context.createGain();
    this.#volume.connect(this.#meter).connect(this.context.destination);
  }

  /** Gets ready for a piece. */
  async begin(): Promise<void> {
    if (!this.#node) {
      await this.context.audioWorklet.addModule(WORKLET);
      this.#node = new AudioWorkletNode(this.context, "jitter-buffer", { numberOfInputs: 0, outputChannelCount: [2] });
      this.#node.port.onmessage = ({ data }: MessageEvent<Report>) => {
        if (this.#cleared && data.played > 0) return;
        this.#cleared = false;
        this.onReport(data);
      };
      this.#node.connect(this.#volume);
    }
    this.clear();
    await this.context.resume();
  }

  /** Takes audio of the piece. */
  push({ channels }: Audio): void {
    this.#order({ channels });
  }

  /** Says that all has come. */
  end(): void {
    this.#order("end");
  }

  /** Falls silent and forgets the piece. */
  clear(): void {
    this.#cleared = true;
    this.#order("clear");
  }

  /** Holds the sound where it is. */
  async pause(): Promise<void> {
    await this.context.suspend();
  }

  async resume(): Promise<void> {
    await this.context.resume();
  }

  /** How loud it is now, 0 to 1: the root of the mean square. */
  level(): number {
    this.#meter.getFloatTimeDomainData(this.#levels);
    return Math.sqrt(this.#levels.reduce((sum, value) => sum + value * value, 0) / this.#levels.length);
  }

  #order(order: Order): void {
    this.#node?.port.postMessage(order);
  }
}
