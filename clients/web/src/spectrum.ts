/** Spectra: what the pictures are made of. */

/** Rows of a spectrum, low to high, spaced evenly in octaves. */
export const ROWS = 112;
const SIZE = 2048;
const LOWEST_HZ = 45;
const FLOOR_DB = -84;

/** Turns windows of samples of one rate into columns of a spectrogram. */
export class Spectrum {
  readonly #edges: Float32Array;
  readonly #window = Float32Array.from({ length: SIZE }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / SIZE));
  readonly #cosine = Float32Array.from({ length: SIZE / 2 }, (_, n) => Math.cos((2 * Math.PI * n) / SIZE));
  readonly #sine = Float32Array.from({ length: SIZE / 2 }, (_, n) => -Math.sin((2 * Math.PI * n) / SIZE));
  readonly #reversed: Uint16Array;
  readonly #real = new Float32Array(SIZE);
  readonly #imaginary = new Float32Array(SIZE);

  constructor(sampleRateHz: number, highestHz = 16_000) {
    const top = Math.min(highestHz, sampleRateHz / 2);
    this.#edges = Float32Array.from(
      { length: ROWS + 1 },
      (_, row) => (LOWEST_HZ * (top / LOWEST_HZ) ** (row / ROWS) * SIZE) / sampleRateHz,
    );
    const bits = Math.log2(SIZE);
    this.#reversed = Uint16Array.from({ length: SIZE }, (_, n) => {
      let reversed = 0;
      for (let bit = 0; bit < bits; bit++) reversed |= ((n >> bit) & 1) << (bits - 1 - bit);
      return reversed;
    });
  }

  /** Returns the column around sample `center`, 0 (silence) to 255 a row. What lies outside counts as silence. */
  column(samples: Float32Array, center: number): Uint8Array {
    const start = center - SIZE / 2;
    for (let n = 0; n < SIZE; n++) {
      const at = this.#reversed[n] ?? 0;
      this.#real[at] = (samples[start + n] ?? 0) * (this.#window[n] ?? 0);
    }
    this.#imaginary.fill(0);
    this.#transform();
    const column = new Uint8Array(ROWS);
    for (let row = 0; row < ROWS; row++) {
      const level = 20 * Math.log10(this.#between(this.#edges[row] ?? 0, this.#edges[row + 1] ?? 0) + 1e-9);
      column[row] = Math.max(0, Math.min(255, Math.round((1 - level / FLOOR_DB) * 255)));
    }
    return column;
  }

  /** The strongest bin between two fractional ones; below a bin's width, what lies between its neighbours. */
  #between(low: number, high: number): number {
    const magnitude = (bin: number) => Math.hypot(this.#real[bin] ?? 0, this.#imaginary[bin] ?? 0) / (SIZE / 4);
    if (high - low < 1) {
      const below = Math.floor(low);
      const part = low - below;
      return magnitude(below) * (1 - part) + magnitude(below + 1) * part;
    }
    let strongest = 0;
    for (let bin = Math.ceil(low); bin < high; bin++) strongest = Math.max(strongest, magnitude(bin));
    return strongest;
  }

  /** The fast Fourier transform of Cooley and Tukey, in place, from bit-reversed order. */
  #transform(): void {
    const re = this.#real;
    const im = this.#imaginary;
    for (let half = 1; half < SIZE; half *= 2) {
      const stride = SIZE / half / 2;
      for (let start = 0; start < SIZE; start += half * 2) {
        for (let k = 0; k < half; k++) {
          const c = this.#cosine[k * stride] ?? 0;
          const s = this.#sine[k * stride] ?? 0;
          const i = start + k;
          const j = i + half;
          const x = (re[j] ?? 0) * c - (im[j] ?? 0) * s;
          const y = (re[j] ?? 0) * s + (im[j] ?? 0) * c;
          re[j] = (re[i] ?? 0) - x;
          im[j] = (im[i] ?? 0) - y;
          re[i] = (re[i] ?? 0) + x;
          im[i] = (im[i] ?? 0) + y;
        }
      }
    }
  }
}

/** Colours of the levels 0 to 255, as RGBA, from stops that the style sheet names. */
export function colours(): Uint8ClampedArray {
  const style = getComputedStyle(document.documentElement);
  const stops = [0, 1, 2, 3, 4].map((n) => channels(style.getPropertyValue(`--level-${n}`)));
  const table = new Uint8ClampedArray(1024);
  for (let level = 0; level < 256; level++) {
    const place = (level / 255) * (stops.length - 1);
    const low = Math.min(stops.length - 2, Math.floor(place));
    for (let channel = 0; channel < 3; channel++) {
      const from = stops[low]?.[channel] ?? 0;
      const to = stops[low + 1]?.[channel] ?? 0;
      table[level * 4 + channel] = from + (to - from) * (place - low);
    }
    table[level * 4 + 3] = 255;
  }
  return table;
}

function channels(hex: string): number[] {
  return [1, 3, 5].map((at) => Number.parseInt(hex.trim().slice(at, at + 2), 16));
}

/** Paints columns as pixels, one wide each, the highest row on top. */
export function paint(target: CanvasRenderingContext2D, x: number, columns: readonly Uint8Array[], table: Uint8ClampedArray): void {
  const pixels = target.createImageData(columns.length, ROWS);
  columns.forEach((column, offset) => {
    for (let row = 0; row < ROWS; row++) {
      const at = ((ROWS - 1 - row) * columns.length + offset) * 4;
      const level = (column[row] ?? 0) * 4;
      pixels.data.set(table.subarray(level, level + 4), at);
    }
  });
  target.putImageData(pixels, x, 0);
}

/** Calls back when the system turns from light to dark or back. */
export function onTheme(redraw: () => void): void {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
