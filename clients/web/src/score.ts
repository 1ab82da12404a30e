/** The picture of a piece while it is made: its waveform above, its spectrogram below, and where the sound is. */
import type { Audio } from "@antiphon/client";

import { ROWS, Spectrum, colours, onTheme, paint } from "./spectrum.js";

/** Columns a second: those of the model's code frames. */
const COLUMNS = 50;
/** Seconds in sight of a piece without an end. */
const ENDLESS_SECONDS = 30;
/** Columns of the longest picture; longer pieces skip some. */
const MAX_COLUMNS = 6000;
const WAVE_SHARE = 0.42;
const HALF_WINDOW = 1024;

interface Mark {
  readonly seconds: number;
  readonly text: string;
}

export class Score {
  readonly #canvas: HTMLCanvasElement;
  readonly #tape = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  #spectrum: Spectrum | undefined;
  #rate = 1;
  #hop = 1;
  #total = 0;
  #columns: Uint8Array[] = [];
  #peaks: number[] = [];
  /** Samples from `#firstHeld` on that columns still need. */
  #held = new Float32Array(0);
  #firstHeld = 0;
  #received = 0;
  #marks: Mark[] = [];
  #table = colours();
  #frame = 0;
  #position = 0;
  #level = 0;
  readonly #calm = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(canvas: HTMLCanvasElement) {
    this.#canvas = canvas;
    onTheme(() => this.#repaint());
    new ResizeObserver(() => this.#ask()).observe(canvas);
  }

  /** Begins a piece of so many seconds; 0 for one without an end. */
  begin(sampleRateHz: number, totalSeconds: number): void {
    this.#rate = sampleRateHz;
    this.#total = totalSeconds;
    const stride = Math.max(1, Math.ceil((totalSeconds * COLUMNS) / MAX_COLUMNS));
    this.#hop = Math.round(sampleRateHz / COLUMNS) * stride;
    this.#spectrum = new Spectrum(sampleRateHz);
    this.#columns = [];
    this.#peaks = [];
    this.#marks = [];
    this.#held = new Float32Array(0);
    this.#firstHeld = this.#received = this.#position = 0;
    this.#repaint();
  }

  /** Takes the next audio. */
  push({ channels }: Audio): void {
    const [first, second] = channels;
    if (!first || !this.#spectrum) return;
    const held = new Float32Array(this.#held.length + first.length);
    held.set(this.#held);
    const mixed = second ? first.map((value, n) => (value + (second[n] ?? 0)) / 2) : first;
    held.set(mixed, this.#held.length);
    this.#held = held;
    this.#received += first.length;
    this.#measure(this.#received - HALF_WINDOW);
    this.#ask();
  }

  /** Draws the columns that the end of the piece held back. */
  end(): void {
    this.#measure(this.#received);
    this.#ask();
  }

  /** Writes where the prompt changed. */
  mark(seconds: number, text: string): void {
    this.#marks.push({ seconds, text });
    this.#ask();
  }

  /** Moves the playhead. */
  seek(seconds: number, level: number): void {
    this.#position = seconds;
    this.#level = level;
    this.#ask();
  }

  #measure(until: number): void {
    const begun = this.#columns.length;
    for (let start = begun * this.#hop; start + this.#hop / 2 <= until; start += this.#hop) {
      const at = start - this.#firstHeld;
      const piece = this.#held.subarray(Math.max(0, at), at + this.#hop);
      this.#peaks.push(piece.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0));
      this.#columns.push(this.#spectrum?.column(this.#held, at + this.#hop / 2) ?? new Uint8Array(ROWS));
    }
    this.#lay(begun);
    const keep = Math.max(0, this.#columns.length * this.#hop - HALF_WINDOW - this.#firstHeld);
    this.#held = this.#held.slice(keep);
    this.#firstHeld += keep;
  }

  /** Paints columns from `begun` on to the tape, which is a ring where the piece has no end. */
  #lay(begun: number): void {
    const tape = this.#tape;
    if (!tape) return;
    const size = tape.canvas.width;
    for (let from = Math.max(begun, this.#columns.length - size); from < this.#columns.length; ) {
      const x = from % size;
      const part = this.#columns.slice(from, from + size - x);
      paint(tape, x, part, this.#table);
      from += part.length;
    }
  }

  #repaint(): void {
    this.#table = colours();
    const tape = this.#tape;
    if (!tape) return;
    const seconds = this.#total || ENDLESS_SECONDS;
    tape.canvas.width = Math.max(1, Math.ceil((seconds * this.#rate) / this.#hop));
    tape.canvas.height = ROWS;
    this.#lay(0);
    this.#ask();
  }

  #ask(): void {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #draw(): void {
    const ratio = Math.min(2, devicePixelRatio || 1);
    const width = this.#canvas.clientWidth;
    const height = this.#canvas.clientHeight;
    if (!width || !height) return;
    if (this.#canvas.width !== Math.round(width * ratio) || this.#canvas.height !== Math.round(height * ratio)) {
      this.#canvas.width = Math.round(width * ratio);
      this.#canvas.height = Math.round(height * ratio);
    }
    const pen = this.#canvas.getContext("2d");
    if (!pen) return;
    const style = getComputedStyle(this.#canvas);
    const ink = style.color;
    const accent = style.getPropertyValue("--accent");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const seconds = this.#total || ENDLESS_SECONDS;
    const start = this.#total ? 0 : Math.max(0, this.#received / this.#rate - ENDLESS_SECONDS);
    const x = (at: number) => ((at - start) / seconds) * width;
    const wave = height * WAVE_SHARE;
    this.#drawTape(pen, x, wave, width, height);
    this.#drawWave(pen, ink, start, seconds, width, wave);
    this.#drawMarks(pen, ink, x, width, height);
    this.#drawHead(pen, accent, x(this.#position), wave, height);
  }

  #drawTape(pen: CanvasRenderingContext2D, x: (at: number) => number, wave: number, width: number, height: number): void {
    const tape = this.#tape?.canvas;
    pen.fillStyle = `rgb(${this.#table.slice(0, 3).join(" ")})`;
    pen.fillRect(0, wave, width, height - wave);
    if (!tape || !this.#columns.length) return;
    const step = this.#hop / this.#rate;
    const first = Math.max(0, this.#columns.length - tape.width);
    for (let from = first; from < this.#columns.length; ) {
      const at = from % tape.width;
      const count = Math.min(tape.width - at, this.#columns.length - from);
      pen.drawImage(tape, at, 0, count, ROWS, x(from * step), wave, x((from + count) * step) - x(from * step), height - wave);
      from += count;
    }
  }

  #drawWave(pen: CanvasRenderingContext2D, ink: string, start: number, seconds: number, width: number, wave: number): void {
    const pitch = 3;
    const middle = wave / 2;
    const step = this.#hop / this.#rate;
    pen.fillStyle = ink;
    pen.globalAlpha = 0.16;
    pen.fillRect(0, middle - 0.5, width, 1);
    for (let left = 0; left < width; left += pitch) {
      const from = start + (left / width) * seconds;
      const until = start + ((left + pitch) / width) * seconds;
      const held = this.#peaks.slice(Math.floor(from / step), Math.max(Math.floor(from / step) + 1, Math.ceil(until / step)));
      if (!held.length) continue;
      // A root, so that quiet playing is seen as well.
      const tall = Math.max(1, Math.sqrt(Math.min(1, Math.max(...held))) * (wave - 10));
      pen.globalAlpha = from <= this.#position ? 0.92 : 0.32;
      pen.fillRect(left, middle - tall / 2, 2, tall);
    }
    pen.globalAlpha = 1;
  }

  #drawMarks(pen: CanvasRenderingContext2D, ink: string, x: (at: number) => number, width: number, height: number): void {
    pen.font = "italic 12px Georgia, serif";
    pen.textBaseline = "top";
    for (const { seconds, text } of this.#marks) {
      const left = x(seconds);
      if (left < 0) continue;
      pen.globalAlpha = 0.55;
      pen.fillStyle = ink;
      for (let y = 0; y < height; y += 6) pen.fillRect(left, y, 1, 3);
      pen.globalAlpha = 0.85;
      const isRight = left > width * 0.66;
      pen.textAlign = isRight ? "right" : "left";
      pen.fillText(text.length > 42 ? `${text.slice(0, 41)}…` : text, left + (isRight ? -6 : 6), 3);
    }
    pen.globalAlpha = 1;
  }

  #drawHead(pen: CanvasRenderingContext2D, accent: string, left: number, wave: number, height: number): void {
    if (!this.#columns.length) return;
    pen.fillStyle = accent;
    pen.fillRect(left - 0.75, 0, 1.5, height);
    pen.beginPath();
    pen.arc(left, wave, this.#calm.matches ? 4 : 3 + Math.min(1, this.#level * 3) * 5, 0, 2 * Math.PI);
    pen.fill();
  }
}
