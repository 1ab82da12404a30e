/** The page: three panels, one server. */
import { Client } from "@antiphon/client";

import { AnalyzePanel } from "./analyze.js";
import { CodecPanel } from "./codec.js";
import { byId, complain, input, output } from "./dom.js";
import { PlayPanel } from "./play.js";

let client = new Client();
const play = new PlayPanel(client);
const codec = new CodecPanel(client);
const analyze = new AnalyzePanel(client);

/** Asks the server what it has. */
async function connect(): Promise<void> {
  const apiKey = input("key").value.trim();
  client = new Client({ apiKey: apiKey || undefined });
  const line = output("server");
  try {
    const [models, codecs] = await Promise.all([client.listModels(), client.listCodecs().catch(() => [])]);
    play.connect(client, models);
    codec.connect(client, codecs[0]);
    analyze.connect(client);
    line.textContent = "";
  } catch (error) {
    line.textContent = "The server does not answer.";
    complain(error);
  }
}

/** Tabs as the ARIA practices have them: arrows move, one tab stop. */
function tabs(): void {
  const all = [...document.querySelectorAll<HTMLButtonElement>("[role=tab]")];
  const choose = (chosen: HTMLButtonElement) => {
    for (const tab of all) {
      const isChosen = tab === chosen;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      byId(tab.getAttribute("aria-controls") ?? "", HTMLElement).hidden = !isChosen;
    }
  };
  all.forEach((tab, index) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: all.length - 1 }[event.key];
      const next = to === undefined ? undefined : all.at(to % all.length);
      if (!next) return;
      event.preventDefault();
      choose(next);
      next.focus();
    });
  });
}

document.addEventListener("keydown", (event) => {
  if (!play.isActive || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") play.stop();
  // Space belongs to whatever has the focus.
  if (event.key === " " && (event.target === document.body || event.target === document.documentElement)) {
    event.preventDefault();
    void play.togglePause();
  }
});

function fill(): void {
  const recipe = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if ("prompt" in recipe) play.fill(recipe);
}

// For the console, and for who wants to know what sounds.
Object.assign(globalThis, { antiphon: { play } });

tabs();
input("key").addEventListener("change", () => void connect());
addEventListener("hashchange", fill);
await connect();
fill();
document.body.dataset["ready"] = "true";
