/** Ideas: prompts that a model knows, a click away. */
import { ModelKind } from "@antiphon/client";

import { make, output } from "./dom.js";

const IDEAS: Partial<Record<ModelKind, readonly string[]>> = {
  [ModelKind.MUSIC]: [
    "dark slow strings, minor chords",
    "bright trumpet with drums, 140 bpm",
    "a wistful guitar arpeggio",
    "warm organ chords, 70 bpm",
  ],
  [ModelKind.SOUND]: ["steady rain", "birds in the morning", "waves at the sea", "footsteps", "an engine"],
};

/** Offers what fits a model of this kind; `choose` takes what is clicked. */
export function suggest(kind: ModelKind, choose: (idea: string) => void): void {
  const chips = (IDEAS[kind] ?? []).map((idea) => {
    const chip = make("button", { type: "button" }, idea);
    chip.addEventListener("click", () => choose(idea));
    return chip;
  });
  output("ideas").replaceChildren(...chips);
}
