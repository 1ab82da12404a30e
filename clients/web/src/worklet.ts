/**
 * The player's end in the audio thread: a jitter buffer.
 *
 * It waits until `target` seconds are there, then plays. When it runs dry it counts a gap, doubles the target and
 * waits again, so that a slow server makes one pause and not a hundred.
 */
export interface Push {
  readonly channels: readonly Float32Array[];
}

/** What goes to the audio thread: audio, that all of it has come, or that all is to be forgotten. */
export type Order = Push | "end" | "clear";

/** What comes back, some thirty times a second. */
export interface Report {
  readonly played: number;
  readonly buffered: number;
  readonly gaps: number;
  readonly target: number;
  readonly isSounding: boolean;
  readonly isOver: boolean;
}

declare const sampleRate: number;
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}
declare function registerProcessor(name: string, type: new () => AudioWorkletProcessor): void;

const FIRST_TARGET_SECONDS = 0.25;
const MAX_TARGET_SECONDS = 8;
const REPORT_BLOCKS = 8;
/** Samples over which the sound comes up again after a gap: an edge would click. */
const RAMP = 128;

class JitterBuffer extends AudioWorkletProcessor {
  #queue: Push[] = [];
  #offset = 0;
  #buffered = 0;
  #played = 0;
  #gaps = 0;
  #target = FIRST_TARGET_SECONDS * sampleRate;
  #isSounding = false;
  #hasAll = false;
  #blocks = 0;
  #ramp = 0;

  constructor() {
    super();
    this.port.onmessage = ({ data }: MessageEvent<Order>) => {
      if (data === "end") this.#hasAll = true;
      else if (data === "clear") this.#clear();
      else {
        this.#queue.push(data);
        this.#buffered += data.channels[0]?.length ?? 0;
      }
    };
  }

  process(_inputs: unknown, [outputs]: Float32Array[][]): boolean {
    const size = outputs?.[0]?.length ?? 0;
    if (!this.#isSounding && this.#buffered && (this.#hasAll || this.#buffered >= this.#target)) {
      this.#isSounding = true;
      this.#ramp = this.#played ? RAMP : 0;
    }
    if (this.#isSounding && outputs) {
      const filled = this.#fill(outputs, size);
      this.#played += filled;
      this.#buffered -= filled;
      if (filled < size) {
        this.#isSounding = false;
        if (!this.#hasAll) {
          this.#gaps += 1;
          this.#target = Math.min(MAX_TARGET_SECONDS * sampleRate, this.#target * 2);
        }
      }
    }
    this.#blocks += 1;
    if (this.#blocks % REPORT_BLOCKS === 0) this.#report();
    return true;
  }

  /** Copies what there is; returns how many samples that were. */
  #fill(outputs: Float32Array[], size: number): number {
    let at = 0;
    while (at < size && this.#queue[0]) {
      const { channels } = this.#queue[0];
      const length = channels[0]?.length ?? 0;
      const count = Math.min(size - at, length - this.#offset);
      outputs.forEach((output, index) => {
        const source = channels[Math.min(index, channels.length - 1)];
        if (source) output.set(source.subarray(this.#offset, this.#offset + count), at);
      });
      this.#offset += count;
      at += count;
      if (this.#offset === length) {
        this.#queue.shift();
        this.#offset = 0;
      }
    }
    if (this.#ramp) {
      for (const output of outputs) for (let n = 0; n < Math.min(size, RAMP); n++) output[n] = (output[n] ?? 0) * (n / RAMP);
      this.#ramp = 0;
    }
    return at;
  }

  #clear(): void {
    this.#queue = [];
    this.#offset = this.#buffered = this.#played = this.#gaps = 0;
    this.#target = FIRST_TARGET_SECONDS * sampleRate;
    this.#isSounding = this.#hasAll = false;
  }

  #report(): void {
    const report: Report = {
      played: this.#played / sampleRate,
      buffered: this.#buffered / sampleRate,
      gaps: this.#gaps,
      target: this.#target / sampleRate,
      isSounding: this.#isSounding,
      isOver: this.#hasAll && this.#buffered === 0,
    };
    this.port.postMessage(report);
  }
}

registerProcessor("jitter-buffer", JitterBuffer);
