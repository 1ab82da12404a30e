/** Compress: a file goes through the codec, and ear and eye compare. */
import type { Client, CodecInfo, ModelInfo } from "@antiphon/client";

import { Comparison } from "./compare.js";
import { button, byId, clock, complain, dropBox, input, output, say } from "./dom.js";
import { Picture } from "./picture.js";

export class CodecPanel {
  #client: Client;
  #codec: { model: ModelInfo; codec: CodecInfo } | undefined;
  #file: Uint8Array | undefined;
  #original: AudioBuffer | undefined;
  #comparison: Comparison | undefined;
  readonly #pictures = [
    new Picture(byId("original-picture", HTMLCanvasElement)),
    new Picture(byId("decoded-picture", HTMLCanvasElement)),
  ] as const;
  #run = 0;

  constructor(client: Client) {
    this.#client = client;
    dropBox("codec-drop", (file) => void this.#take(file).catch(complain));
    const slider = input("codebooks");
    slider.addEventListener("input", () => this.#show());
    slider.addEventListener("change", () => void this.#code().catch(complain));
    button("compare").addEventListener("click", () => {
      if (this.#comparison?.isPlaying) this.#comparison.stop();
      else void this.#comparison?.play(this.#atEnd() ? 0 : input("compare-position").valueAsNumber);
    });
    input("compare-position").addEventListener("change", () => {
      if (this.#comparison?.isPlaying) void this.#comparison.play(input("compare-position").valueAsNumber);
    });
    for (const [version, id] of ["hear-original", "hear-decoded"].entries()) {
      input(id).addEventListener("change", () => this.#comparison?.hear(version));
    }
  }

  /** Takes the server's client and its codec. */
  connect(client: Client, codec: { model: ModelInfo; codec: CodecInfo } | undefined): void {
    this.#client = client;
    this.#codec = codec;
    if (!codec) return;
    const slider = input("codebooks");
    slider.max = String(codec.model.codebookCount);
    slider.value = String(codec.codec.usualCodebookCount || codec.model.codebookCount);
    this.#show();
  }

  async #take(file: File): Promise<void> {
    const run = ++this.#run;
    say(`Reading ${file.name}…`);
    this.#comparison?.stop();
    this.#comparison ??= this.#compared();
    const bytes = new Uint8Array(await file.arrayBuffer());
    // Reading takes the bytes away: it gets a copy.
    const original = await this.#comparison.context.decodeAudioData(bytes.slice().buffer).catch(() => {
      throw new Error(`${file.name}: the browser can't read it as audio`);
    });
    if (run !== this.#run) return;
    this.#file = bytes;
    this.#original = original;
    output("codec-name").textContent = file.name;
    await this.#code();
  }

  #compared(): Comparison {
    const comparison = new Comparison();
    comparison.onMove = (seconds) => {
      if (seconds !== undefined) input("compare-position").value = String(seconds);
      button("compare").textContent = comparison.isPlaying ? "Stop" : "Play both";
      output("compare-time").textContent = clock(input("compare-position").valueAsNumber);
    };
    return comparison;
  }

  async #code(): Promise<void> {
    const file = this.#file;
    const original = this.#original;
    const comparison = this.#comparison;
    if (!file || !original || !comparison) return;
    const run = ++this.#run;
    const panel = output("codec-result");
    panel.setAttribute("aria-busy", "true");
    try {
      say("Encoding…");
      const began = performance.now();
      const encoded = await this.#client.encode(file, { codebookCount: input("codebooks").valueAsNumber });
      say("Decoding…");
      const decoded = await this.#client.decode(encoded);
      const took = (performance.now() - began) / 1000;
      if (run !== this.#run) return;
      const seconds = encoded.sampleCount / encoded.sampleRateHz;
      const pcm = encoded.sampleCount * encoded.channelCount * 2;
      output("codec-kbps").textContent = `${encoded.bandwidthKbps.toFixed(2)} kbit/s`;
      output("codec-ratio").textContent = `1 : ${Math.round(pcm / Math.max(1, encoded.codes.data.length))}`;
      output("codec-bytes").textContent = `${encoded.codes.data.length.toLocaleString("en")} bytes for ${clock(seconds)}`;
      output("codec-took").textContent = `${took.toFixed(1)} s`;
      comparison.load([original, comparison.buffer(decoded.channels, decoded.sampleRateHz)]);
      input("compare-position").max = String(seconds);
      input("compare-position").value = "0";
      panel.hidden = false;
      const highest = encoded.sampleRateHz / 2;
      await this.#pictures[0].show(original.getChannelData(0), original.sampleRate, highest);
      await this.#pictures[1].show(decoded.channels[0] ?? new Float32Array(1), decoded.sampleRateHz, highest);
      say(`Encoded at ${encoded.bandwidthKbps.toFixed(2)} kbit/s and decoded. Play both, and change over while they run.`);
    } finally {
      panel.setAttribute("aria-busy", "false");
    }
  }

  #atEnd(): boolean {
    const position = input("compare-position");
    return position.valueAsNumber >= Number(position.max) - 0.1;
  }

  /** Kilobits a second of so many codebooks. */
  #bandwidth(codebooks: number): number {
    const model = this.#codec?.model;
    if (!model) return 0;
    return (codebooks * model.frameRateHz * Math.ceil(Math.log2(model.codebookSize))) / 1000;
  }

  #show(): void {
    const slider = input("codebooks");
    const text = `${this.#bandwidth(slider.valueAsNumber).toFixed(2)} kbit/s, ${slider.value} of ${slider.max} codebooks`;
    output("codebooks-value").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  }
}
