/** Small helpers for the document. */

type Child = Node | string;

/** Returns the element of the page with this id; the page is ours, so it is there and of that kind. */
export function byId<T extends HTMLElement>(id: string, type: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`#${id} is no ${type.name}`);
  return found;
}

export const input = (id: string) => byId(id, HTMLInputElement);
export const button = (id: string) => byId(id, HTMLButtonElement);
export const output = (id: string) => byId(id, HTMLElement);

/** Makes an element. Text goes in as text, never as markup. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Says something to those who see and to those who listen; says it once. */
export function say(text: string): void {
  const status = output("status");
  output("alert").textContent = "";
  if (status.textContent !== text) status.textContent = text;
}

/** Says that something failed. */
export function complain(error: unknown): void {
  output("status").textContent = "";
  const alert = output("alert");
  alert.textContent = error instanceof Error ? error.message : String(error);
  alert.scrollIntoView({ block: "nearest" });
}

/** 75.34 as "1:15.3". */
export function clock(seconds: number): string {
  const tenths = Math.max(0, Math.round(seconds * 10));
  return `${Math.floor(tenths / 600)}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}

/** Offers bytes as a file. */
export function download(bytes: BlobPart, type: string, name: string): void {
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  make("a", { href: url, download: name }).click();
  // The download has its own hold on the data by then.
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A box that takes a file: dropped, or chosen. */
export function dropBox(id: string, take: (file: File) => void): void {
  const box = output(id);
  const chooser = box.querySelector("input");
  if (!chooser) throw new Error(`#${id} has no input`);
  chooser.addEventListener("change", () => {
    const file = chooser.files?.[0];
    if (file) take(file);
    // The same file may be chosen again.
    chooser.value = "";
  });
  box.addEventListener("dragover", (event) => {
    event.preventDefault();
    box.classList.add("over");
  });
  box.addEventListener("dragleave", () => box.classList.remove("over"));
  box.addEventListener("drop", (event) => {
    event.preventDefault();
    box.classList.remove("over");
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
}
