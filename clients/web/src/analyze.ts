/** Examine: what the discriminators say of a file, window by window. */
import type { Analysis, AnalyzedWindow, Client } from "@antiphon/client";

import { byId, clock, complain, dropBox, input, make, output, say } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000;
const HEIGHT = 220;

const WORDS = {
  generated: "A neural decoder probably made this.",
  real: "No evidence of a neural decoder.",
  inconclusive: "The evidence does not decide.",
  none: "No verdict.",
} as const;

const PICTURES: Readonly<Record<string, string>> = {
  spectrogram: "The whole piece, suspect windows marked",
  mpd: "Multi-period discriminator, the most suspect window",
  msd: "Multi-scale discriminator, the most suspect window",
  msstftd: "Multi-scale STFT discriminator, the most suspect window",
};

export class AnalyzePanel {
  #client: Client;
  #analysis: Analysis | undefined;
  #run = 0;
  #urls: string[] = [];

  constructor(client: Client) {
    this.#client = client;
    dropBox("analyze-drop", (file) => void this.#take(file).catch(complain));
    input("threshold").addEventListener("input", () => this.#draw());
    const chart = output("chart");
    const drag = (event: PointerEvent) => {
      const { top, height } = chart.getBoundingClientRect();
      const value = 1 - Math.max(0, Math.min(1, (event.clientY - top) / height));
      input("threshold").value = value.toFixed(2);
      this.#draw();
    };
    chart.addEventListener("pointerdown", (event) => {
      chart.setPointerCapture(event.pointerId);
      drag(event);
    });
    chart.addEventListener("pointermove", (event) => {
      if (chart.hasPointerCapture(event.pointerId)) drag(event);
    });
  }

  /** Takes the server's client. */
  connect(client: Client): void {
    this.#client = client;
  }

  async #take(file: File): Promise<void> {
    const run = ++this.#run;
    say(`Listening to ${file.name}…`);
    const panel = output("analyze-result");
    panel.setAttribute("aria-busy", "true");
    try {
      const analysis = await this.#client.analyze(new Uint8Array(await file.arrayBuffer()), { includeImages: true });
      if (run !== this.#run) return;
      this.#analysis = analysis;
      output("analyze-name").textContent = file.name;
      input("threshold").value = (analysis.generatedThreshold ?? 0.5).toFixed(2);
      panel.hidden = false;
      this.#tell(analysis);
      this.#show(analysis);
      this.#draw();
      say(`${file.name}: ${WORDS[analysis.verdict]}`);
    } finally {
      panel.setAttribute("aria-busy", "false");
    }
  }

  #tell(analysis: Analysis): void {
    const verdict = output("verdict");
    verdict.textContent = WORDS[analysis.verdict];
    verdict.dataset["verdict"] = analysis.verdict;
    const probability = analysis.generatedProbability;
    const told = probability === undefined ? [] : [`Probability of a neural decoder: ${percent(probability)}.`];
    if (analysis.reason) told.push(sentence(analysis.reason));
    output("verdict-more").textContent = told.join(" ");
    const { mpd, msd, msstftd, model, trainingSources } = analysis;
    output("score-mpd").textContent = mpd.toFixed(3);
    output("score-msd").textContent = msd.toFixed(3);
    output("score-msstftd").textContent = msstftd.toFixed(3);
    output("analyze-model").textContent = model?.name ?? "";
    output("analyze-sources").hidden = !trainingSources.length;
    output("sources").replaceChildren(...trainingSources.map((source) => make("li", {}, source)));
  }

  #show({ images }: Analysis): void {
    for (const url of this.#urls) URL.revokeObjectURL(url);
    this.#urls = images.map(({ png }) => URL.createObjectURL(new Blob([png.slice()], { type: "image/png" })));
    output("evidence").replaceChildren(
      ...images.map(({ name, startSeconds, durationSeconds }, index) => {
        const span = `${clock(startSeconds)} to ${clock(startSeconds + durationSeconds)}`;
        const caption = `${PICTURES[name] ?? name}: ${span}`;
        const picture = make("img", { src: this.#urls[index] ?? "", alt: caption, loading: "lazy" });
        return make("figure", {}, picture, make("figcaption", {}, caption));
      }),
    );
  }

  #draw(): void {
    const analysis = this.#analysis;
    if (!analysis) return;
    const threshold = input("threshold").valueAsNumber;
    input("threshold").setAttribute("aria-valuetext", percent(threshold));
    output("threshold-value").textContent = percent(threshold);
    const total = Math.max(...analysis.windows.map(({ startSeconds, durationSeconds }) => startSeconds + durationSeconds), 0.01);
    const above = analysis.windows.filter((window) => evidence(window) >= threshold);
    const isCalibrated = analysis.generatedProbability !== undefined;
    output("chart-title").textContent = isCalibrated
      ? "Probability of a neural decoder, window by window"
      : "Evidence window by window: one less the mean score, not calibrated";
    const text = `${above.length} of ${analysis.windows.length} windows at or above ${percent(threshold)}.`;
    output("above").textContent = text;
    const bars = analysis.windows.map((window) => {
      const height = Math.max(2, evidence(window) * HEIGHT);
      const bar = shape("rect", {
        x: (window.startSeconds / total) * WIDTH + 1,
        y: HEIGHT - height,
        width: Math.max(2, (window.durationSeconds / total) * WIDTH - 2),
        height,
        class: evidence(window) >= threshold ? "above" : "below",
      });
      const title = shape("title", {});
      title.textContent = `${clock(window.startSeconds)}: ${percent(evidence(window))}`;
      bar.append(title);
      return bar;
    });
    const line = HEIGHT - threshold * HEIGHT;
    const lines = [shape("line", { x1: 0, x2: WIDTH, y1: line, y2: line, class: "threshold" })];
    const chart = output("chart").querySelector("svg");
    if (!chart) return;
    chart.setAttribute("aria-label", text);
    chart.replaceChildren(...bars, ...lines);
    output("chart-end").textContent = clock(total);
    byId("windows", HTMLTableSectionElement).replaceChildren(
      ...analysis.windows.map((window) =>
        make(
          "tr",
          {},
          make("th", { scope: "row" }, clock(window.startSeconds)),
          ...[evidence(window), window.mpd, window.msd, window.msstftd].map((score) => make("td", {}, score.toFixed(3))),
        ),
      ),
    );
  }
}

/** How much speaks for a neural decoder, 0 to 1. */
function evidence({ generatedProbability, mpd, msd, msstftd }: AnalyzedWindow): number {
  return generatedProbability ?? 1 - (mpd + msd + msstftd) / 3;
}

function percent(part: number): string {
  return `${(part * 100).toFixed(part > 0.01 && part < 0.99 ? 0 : 1)} %`;
}

function sentence(text: string): string {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

function shape(name: string, attributes: Record<string, string | number>): SVGElement {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  return node;
}
