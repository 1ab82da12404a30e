/** Make: a prompt becomes sound, and other words bend it. */
import { AntiphonError, ModelKind, type Client, type Generation, type ModelInfo, type Started } from "@antiphon/client";

import { button, byId, clock, complain, input, make, output, say } from "./dom.js";
import { suggest } from "./ideas.js";
import { Player } from "./player.js";
import { Score } from "./score.js";
import { link, Take, type Recipe } from "./takes.js";
import type { Report } from "./worklet.js";

/** Seconds that the server may be ahead of what is heard: so long until a change is heard. */
const AHEAD_SECONDS = 3;
const UPDATE_DELAY_MS = 250;

type State = "idle" | "opening" | "playing" | "paused";

/** The sliders, by the name that links have for them. */
const SLIDERS = ["length", "temperature", "top-k", "guidance", "blend"] as const;
const DRAWN: readonly string[] = ["temperature", "top-k", "guidance"];

export class PlayPanel {
  #client: Client;
  #models: ModelInfo[] = [];
  #state: State = "idle";
  #player: Player | undefined;
  #piece: Generation | undefined;
  #take: Take | undefined;
  readonly #score = new Score(byId("score", HTMLCanvasElement));
  #granted = 0;
  #received = 0;
  #busySince = 0;
  #busySeconds = 0;
  #clicked = 0;
  #firstSound = 0;
  #streamEnded = false;
  #latest: Report | undefined;
  #updateTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(client: Client) {
    this.#client = client;
    byId("compose", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void (this.#state === "idle" ? this.#start() : this.#bend());
    });
    byId("prompt", HTMLTextAreaElement).addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("compose", HTMLFormElement).requestSubmit();
    });
    button("pause").addEventListener("click", () => void this.togglePause());
    button("stop").addEventListener("click", () => this.stop());
    input("endless").addEventListener("change", () => this.#show());
    byId("model", HTMLSelectElement).addEventListener("change", () => this.#limit());
    for (const name of SLIDERS) {
      input(name).addEventListener("input", () => {
        this.#show();
        if (DRAWN.includes(name)) this.#updateSoon();
      });
    }
    this.#show();
  }

  /** Whether a piece is under way. */
  get isActive(): boolean {
    return this.#state !== "idle";
  }

  /** What sounds, for the console. */
  get player(): Player | undefined {
    return this.#player;
  }

  /** Takes the server's client and its models. */
  connect(client: Client, models: readonly ModelInfo[]): void {
    this.#client = client;
    this.#models = models.filter(({ kind }) => kind === ModelKind.MUSIC || kind === ModelKind.SOUND);
    const select = byId("model", HTMLSelectElement);
    const chosen = select.value;
    select.replaceChildren(...this.#models.map(({ name }) => make("option", { value: name }, name)));
    if (this.#models.some(({ name }) => name === chosen)) select.value = chosen;
    this.#limit();
  }

  /** Fills the fields in from a link, or from a piece that was made. */
  fill(recipe: Recipe): void {
    byId("prompt", HTMLTextAreaElement).value = recipe["prompt"] ?? "";
    input("seed").value = recipe["seed"] ?? "";
    input("endless").checked = recipe["endless"] === "1";
    const model = recipe["model"];
    if (model && this.#models.some(({ name }) => name === model)) byId("model", HTMLSelectElement).value = model;
    for (const name of SLIDERS) if (recipe[name]) input(name).value = recipe[name];
    this.#show();
  }

  /** Pauses, or goes on. */
  async togglePause(): Promise<void> {
    try {
      if (this.#state === "playing") {
        this.#set("paused");
        await this.#player?.pause();
        await this.#piece?.pause();
        say("Paused.");
      } else if (this.#state === "paused") {
        this.#set("playing");
        await this.#piece?.resume();
        await this.#player?.resume();
        say("Playing.");
      }
    } catch (error) {
      complain(error);
    }
  }

  /** Falls silent at once; what was made stays. */
  stop(): void {
    if (this.#state === "idle") return;
    this.#piece?.stop().catch(complain);
    // What is still to come is not worth waiting for where the server never began.
    if (!this.#piece?.started) this.#piece?.cancel();
    this.#player?.clear();
    this.#finish("Stopped.");
  }

  async #start(): Promise<void> {
    const model = this.#model();
    this.#set("opening");
    say("Asking for the first sound…");
    this.#clicked = performance.now();
    this.#reset();
    let piece: Generation | undefined;
    try {
      const player = await this.#ready(model?.sampleRateHz ?? 32_000);
      piece = this.#client.generate(byId("prompt", HTMLTextAreaElement).value.trim(), {
        ...this.#options(),
        ...(input("endless").checked ? { endless: true } : { duration: input("length").valueAsNumber }),
        ...(input("seed").value.trim() ? { seed: this.#seed() } : {}),
        ...(model ? { model: model.name } : {}),
        initialCredit: AHEAD_SECONDS,
        onStarted: (started) => this.#begun(started),
        onUpdated: ({ step, prompts }) => {
          if (this.#take) this.#take.isChanged = true;
          const { frameRateHz = 50 } = this.#piece?.started ?? {};
          if (prompts.length) this.#score.mark(step / frameRateHz, prompts.join(" + "));
        },
        onReconnect: () => say("The connection broke; the piece goes on in a moment."),
      });
      this.#piece = piece;
      this.#busySince = performance.now();
      for await (const chunk of piece) {
        this.#count(chunk.sampleCount / chunk.sampleRateHz);
        this.#take?.push(chunk);
        if (this.#piece !== piece) continue;
        this.#score.push(chunk);
        player.push(chunk);
      }
      if (this.#piece === piece) {
        this.#score.end();
        player.end();
        this.#streamEnded = true;
      }
    } catch (error) {
      if (this.#piece !== piece) return;
      this.#player?.clear();
      this.#finish("");
      complain(error);
    }
  }

  #reset(): void {
    this.#firstSound = this.#received = this.#busySeconds = 0;
    this.#granted = AHEAD_SECONDS;
    this.#streamEnded = false;
    this.#take = undefined;
  }

  /** Other words for what is playing. */
  async #bend(): Promise<void> {
    const { frameRateHz = 50 } = this.#piece?.started ?? {};
    const prompt = byId("prompt", HTMLTextAreaElement).value.trim();
    try {
      await this.#piece?.update({ prompt, blendSteps: Math.round(input("blend").valueAsNumber * frameRateHz) });
      say(`The music turns to “${prompt}” in about ${Math.round(this.#latest?.buffered ?? AHEAD_SECONDS)} s.`);
    } catch (error) {
      complain(error);
    }
  }

  #updateSoon(): void {
    if (this.#state === "idle") return;
    clearTimeout(this.#updateTimer);
    this.#updateTimer = setTimeout(() => {
      this.#piece?.update(this.#options()).catch(complain);
    }, UPDATE_DELAY_MS);
  }

  /** Returns a player at the model's rate. */
  async #ready(sampleRateHz: number): Promise<Player> {
    if (this.#player?.context.sampleRate !== sampleRateHz) {
      await this.#player?.context.close();
      this.#player = new Player(sampleRateHz);
      this.#player.onReport = (report) => this.#heard(report);
    }
    await this.#player.begin();
    return this.#player;
  }

  #begun(started: Started): void {
    const recipe: Recipe = { ...this.recipe(), seed: String(started.seed) };
    this.#take = new Take(started, recipe);
    this.#score.begin(started.sampleRateHz, started.totalSamples / started.sampleRateHz);
    output("duration").textContent = started.totalSamples ? clock(started.totalSamples / started.sampleRateHz) : "∞";
    history.replaceState(null, "", link(recipe));
  }

  /** Counts how long the server took, without the time in which it might not send. */
  #count(seconds: number): void {
    this.#received += seconds;
    if (!this.#busySince) return;
    const now = performance.now();
    this.#busySeconds += (now - this.#busySince) / 1000;
    this.#busySince = this.#received < this.#granted - 1e-6 ? now : 0;
  }

  #heard(report: Report): void {
    if (this.#state === "idle") return;
    this.#latest = report;
    if (report.isSounding && !this.#firstSound) {
      this.#firstSound = (performance.now() - this.#clicked) / 1000;
      if (this.#state === "opening") this.#set("playing");
      say("Playing.");
    }
    const ahead = Math.max(AHEAD_SECONDS, report.target * 2);
    if (!this.#streamEnded && this.#piece?.started && this.#granted < report.played + ahead - 0.5) {
      const more = report.played + ahead - this.#granted;
      this.#granted += more;
      this.#busySince ||= performance.now();
      this.#piece.grant(more).catch(complain);
    }
    this.#score.seek(report.played, this.#player?.level() ?? 0);
    this.#figures(report);
    if (this.#streamEnded && report.isOver) this.#finish(`Finished: ${clock(report.played)}.`);
  }

  #figures(report: Report): void {
    const speed = this.#busySeconds ? this.#received / this.#busySeconds : 0;
    output("position").textContent = clock(report.played);
    output("first-sound").textContent = this.#firstSound ? `${this.#firstSound.toFixed(2)} s` : "–";
    output("speed").textContent = speed ? `${speed.toFixed(speed < 10 ? 1 : 0)}×` : "–";
    output("ahead").textContent = `${report.buffered.toFixed(1)} s`;
    output("gaps").textContent = String(report.gaps);
  }

  #finish(text: string): void {
    const take = this.#take;
    const piece = this.#piece;
    this.#piece = undefined;
    this.#take = undefined;
    clearTimeout(this.#updateTimer);
    if (this.#player?.context.state === "suspended") void this.#player.resume();
    this.#set("idle");
    if (text) say(text);
    if (take && piece) take.show((recipe) => this.fill(recipe));
  }

  /** The fields, as a link tells of them. */
  recipe(): Recipe {
    const fields: Recipe = { prompt: byId("prompt", HTMLTextAreaElement).value.trim() };
    for (const name of SLIDERS) fields[name] = input(name).value;
    if (input("endless").checked) fields["endless"] = "1";
    if (input("seed").value) fields["seed"] = input("seed").value;
    const model = byId("model", HTMLSelectElement).value;
    return model ? { ...fields, model } : fields;
  }

  #options() {
    return {
      temperature: input("temperature").valueAsNumber,
      topK: input("top-k").valueAsNumber,
      cfgCoef: input("guidance").valueAsNumber,
    };
  }

  #seed(): bigint {
    const text = input("seed").value.trim();
    if (!/^\d+$/.test(text)) throw new AntiphonError("The seed is a whole number, or nothing.");
    return BigInt(text);
  }

  #model(): ModelInfo | undefined {
    return this.#models.find(({ name }) => name === byId("model", HTMLSelectElement).value) ?? this.#models[0];
  }

  /** Keeps the sliders and the ideas to what the model takes. */
  #limit(): void {
    const model = this.#model();
    if (!model) return;
    suggest(model.kind, (idea) => {
      byId("prompt", HTMLTextAreaElement).value = idea;
      if (this.#state !== "idle") void this.#bend();
    });
    const longest = Number(model.maxDuration?.seconds ?? 30n) || 30;
    input("length").max = String(Math.min(120, longest));
    input("top-k").max = String(Math.min(500, model.codebookSize));
    this.#show();
  }

  #set(state: State): void {
    this.#state = state;
    document.body.dataset["state"] = state;
    button("play").textContent = state === "idle" ? "Play" : "Bend to this";
    button("play").disabled = state === "opening";
    button("pause").disabled = state === "idle" || state === "opening";
    button("pause").textContent = state === "paused" ? "Go on" : "Pause";
    button("stop").disabled = state === "idle";
    for (const name of ["length", "seed", "endless"]) input(name).disabled = state !== "idle";
    byId("model", HTMLSelectElement).disabled = state !== "idle";
    this.#show();
  }

  #show(): void {
    const units: Record<string, (value: number) => string> = {
      length: (value) => `${value} s`,
      temperature: (value) => value.toFixed(2),
      "top-k": (value) => (value ? String(value) : "all"),
      guidance: (value) => value.toFixed(1),
      blend: (value) => (value ? `${value} s` : "at once"),
    };
    for (const name of SLIDERS) {
      const slider = input(name);
      const text = units[name]?.(slider.valueAsNumber) ?? slider.value;
      output(`${name}-value`).textContent = text;
      slider.setAttribute("aria-valuetext", text);
    }
    input("length").disabled = input("endless").checked || this.#state !== "idle";
  }
}
