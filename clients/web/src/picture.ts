/** The spectrogram of a whole file. */
import { ROWS, Spectrum, colours, onTheme, paint } from "./spectrum.js";

const MAX_COLUMNS = 1200;
/** Columns between two breaths, so that the page stays awake. */
const BATCH = 150;

export class Picture {
  readonly #canvas: HTMLCanvasElement;
  #columns: Uint8Array[] = [];
  #run = 0;

  constructor(canvas: HTMLCanvasElement) {
    this.#canvas = canvas;
    onTheme(() => this.#draw());
  }

  /** Draws samples up to a frequency, which two pictures share to be compared. */
  async show(samples: Float32Array, sampleRateHz: number, highestHz: number): Promise<void> {
    const run = ++this.#run;
    const spectrum = new Spectrum(sampleRateHz, highestHz);
    const count = Math.max(1, Math.min(MAX_COLUMNS, Math.ceil((samples.length / sampleRateHz) * 100)));
    const columns: Uint8Array[] = [];
    for (let index = 0; index < count; index++) {
      columns.push(spectrum.column(samples, Math.round(((index + 0.5) / count) * samples.length)));
      if (index % BATCH === BATCH - 1) await new Promise((resolve) => setTimeout(resolve));
      if (run !== this.#run) return;
    }
    this.#columns = columns;
    this.#draw();
  }

  #draw(): void {
    if (!this.#columns.length) return;
    this.#canvas.width = this.#columns.length;
    this.#canvas.height = ROWS;
    const pen = this.#canvas.getContext("2d");
    if (pen) paint(pen, 0, this.#columns, colours());
  }
}
