/** The pieces that were made: to hear again, to keep, to share, to repeat. */
import { joined, toWav, type Audio, type Started } from "@antiphon/client";

import { clock, download, make, output, say } from "./dom.js";

/** What a link tells of a piece. */
export type Recipe = Record<string, string>;

/** Of a piece without an end, as much is kept. */
const KEPT_SECONDS = 600;

/** Collects a piece. */
export class Take {
  #pieces: Audio[] = [];
  #seconds = 0;
  /** Whether the prompt or the sampling changed on the way: a link then gives the beginning only. */
  isChanged = false;

  constructor(
    readonly started: Started,
    readonly recipe: Recipe,
  ) {}

  get seconds(): number {
    return this.#seconds;
  }

  push(piece: Audio): void {
    this.#pieces.push(piece);
    this.#seconds += length(piece);
    while (this.#seconds > KEPT_SECONDS && this.#pieces[0] && !this.started.totalSamples) {
      this.#seconds -= length(this.#pieces[0]);
      this.#pieces.shift();
    }
  }

  /** Puts the piece on the page, newest first. `again` takes its recipe. */
  show(again: (recipe: Recipe) => void): void {
    if (!this.#seconds) return;
    const wav = toWav(joined(this.#pieces));
    const { prompts, seed, model } = this.started;
    const text = prompts.map(([prompt]) => prompt).join(" + ") || "no prompt";
    const name = `${text.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 48)}-${seed}.wav`;
    const button = (label: string, act: () => void) => {
      const node = make("button", { type: "button", "aria-label": `${label}: ${text}` }, label);
      node.addEventListener("click", act);
      return node;
    };
    const audio = make("audio", { controls: "", preload: "metadata", "aria-label": text });
    audio.src = URL.createObjectURL(new Blob([wav], { type: "audio/wav" }));
    const changed = this.isChanged ? " · changed on the way" : "";
    const item = make(
      "li",
      {},
      make("p", { class: "take-prompt" }, text),
      make("p", { class: "take-facts" }, `seed ${seed} · ${clock(this.#seconds)} · ${model}${changed}`),
      audio,
      make(
        "div",
        { class: "row" },
        button("Download WAV", () => download(wav, "audio/wav", name)),
        button("Copy link", () => void copy(link(this.recipe))),
        button("Use again", () => again(this.recipe)),
      ),
    );
    output("takes").prepend(item);
    output("takes-panel").hidden = false;
  }
}

/** Returns the address that opens the page with these fields filled in. */
export function link(recipe: Recipe): string {
  return `${location.origin}${location.pathname}#${new URLSearchParams(recipe)}`;
}

async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    say("The link is copied.");
  } catch {
    // Without leave to write there: the address bar has it.
    location.hash = new URL(text).hash;
    say("The link is in the address bar.");
  }
}

function length({ channels, sampleRateHz }: Audio): number {
  return (channels[0]?.length ?? 0) / sampleRateHz;
}
