// Makes the page that Envoy serves: `node bundle.mjs` writes it, `node bundle.mjs --check` fails where it is stale.
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const WEB = at("../web/");
const REST = at("../../k8s/base/envoy/rest/");

const { outputFiles } = await build({
  entryPoints: { page: `${WEB}src/main.ts`, worklet: `${WEB}src/worklet.ts` },
  outdir: REST,
  tsconfig: `${WEB}tsconfig.json`,
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  charset: "utf8",
  legalComments: "inline",
  write: false,
});
const files = new Map(outputFiles.map(({ path, text }) => [path, text]));
for (const name of ["page.html", "page.css"]) files.set(REST + name, await readFile(WEB + name, "utf8"));

const stale = [];
for (const [path, text] of files) {
  if ((await readFile(path, "utf8").catch(() => "")) === text) continue;
  stale.push(path);
  if (!process.argv.includes("--check")) await writeFile(path, text);
}
if (stale.length && process.argv.includes("--check")) {
  console.error(`not what the sources give: ${stale.join(", ")}; hint: make web`);
  process.exitCode = 1;
}
