// Draws openapi.json. All text goes in as text, never as markup.
"use strict";

let spec;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// A comment: paragraphs, lists of "- ", and `code`.
function prose(text) {
  const inline = (line) =>
    line.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : document.createTextNode(part)));
  return text.split("\n\n").filter(Boolean).map((paragraph) => {
    const lines = paragraph.split("\n");
    return lines.every((line) => line.startsWith("- "))
      ? make("ul", {}, ...lines.map((line) => make("li", {}, ...inline(line.slice(2)))))
      : make("p", {}, ...inline(paragraph));
  });
}

function resolved(schema) {
  const inner = schema.allOf ? { ...schema.allOf[0], description: schema.description } : schema;
  if (!inner.$ref) return { schema: inner };
  const name = inner.$ref.split("/").pop();
  return { name, schema: spec.components.schemas[name], description: inner.description };
}

function typeOf(schema) {
  const { name, schema: inner } = resolved(schema);
  if (name) return [make("a", { href: `#schema-${name}` }, name)];
  if (inner.type === "array") return ["list of ", ...typeOf(inner.items)];
  if (inner.oneOf) return ["whole number"];
  return [{ byte: "base64", binary: "bytes" }[inner.format] || inner.type];
}

function row(name, schema, description) {
  const standard = schema.default === undefined ? [] : [make("br"), `default ${JSON.stringify(schema.default)}`];
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, make("code", {}, name)),
    make("td", {}, ...typeOf(schema), ...standard),
    make("td", {}, ...prose(description || "")),
  );
}

function table(caption, rows) {
  const head = make("tr", {}, ...["Name", "Type", "Meaning"].map((name) => make("th", { scope: "col" }, name)));
  return make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...rows));
}

function fields(schema) {
  return Object.entries(schema.properties || {}).map(([name, one]) => row(name, one, one.description));
}

// The form that sends one request, and what comes back.
function form(path, verb, operation) {
  const result = make("div", { role: "status" });
  const inputs = [];
  const node = make("form", {});
  for (const parameter of operation.parameters || []) {
    const id = `${operation.operationId}-${parameter.name}`;
    inputs.push(make("input", { id, name: parameter.name, spellcheck: "false" }));
    node.append(make("label", { for: id }, parameter.name), inputs.at(-1));
  }
  const content = operation.requestBody?.content;
  let body;
  if (content) {
    const id = `${operation.operationId}-body`;
    const json = content["application/json"];
    body = json ? make("textarea", { id, spellcheck: "false" }) : make("input", { id, type: "file", required: "" });
    if (json) body.value = JSON.stringify(json.example || {}, null, 1);
    node.append(make("label", { for: id }, json ? "Body, JSON" : "Body, an audio file"), body);
  }
  let running;
  const stop = make("button", { type: "button", disabled: "" }, "Stop");
  const send = make("button", { type: "submit" }, "Send");
  stop.addEventListener("click", () => running?.abort());
  node.append(send, stop, result);
  node.addEventListener("submit", async (event) => {
    event.preventDefault();
    running = new AbortController();
    send.disabled = true;
    stop.disabled = false;
    result.replaceChildren("…");
    try {
      const query = new URLSearchParams(inputs.filter((one) => one.value).map((one) => [one.name, one.value]));
      const headers = {};
      const key = document.getElementById("key").value;
      if (key) headers.authorization = `Bearer ${key}`;
      if (content?.["application/json"]) headers["content-type"] = "application/json";
      const reply = await fetch(query.size ? `${path}?${query}` : path, {
        method: verb.toUpperCase(),
        headers,
        body: body?.type === "file" ? body.files[0] : body?.value,
        signal: running.signal,
      });
      await show(reply, result);
    } catch (error) {
      result.replaceChildren(String(error));
    }
    send.disabled = false;
    stop.disabled = true;
  });
  return node;
}

async function show(reply, result) {
  const status = make("p", {}, `${reply.status} ${reply.headers.get("content-type") || ""}`);
  if (!(reply.headers.get("content-type") || "").startsWith("audio/")) {
    const text = await reply.text();
    let shown = text;
    try {
      shown = JSON.stringify(JSON.parse(text), null, 1);
    } catch {
      // Not JSON: shown as it came.
    }
    result.replaceChildren(status, make("pre", { tabindex: "0" }, shown));
    return;
  }
  const pieces = [];
  let bytes = 0;
  for (const reader = reply.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    bytes += value.length;
    result.replaceChildren(status, `${bytes} bytes so far`);
  }
  const url = URL.createObjectURL(new Blob(pieces, { type: reply.headers.get("content-type") }));
  result.replaceChildren(status, make("audio", { controls: "", src: url }), `${bytes} bytes`);
}

function curl(path, verb, operation) {
  const content = operation.requestBody?.content;
  const name = path.split("/").pop();
  const parts = ["curl", "-N"];
  if (content?.["application/json"]) {
    parts.push(`-d '${JSON.stringify(content["application/json"].example || {})}'`);
  } else if (content) {
    parts.push("--data-binary @piece.wav");
  }
  if (operation.responses["200"].content["audio/wav"]) parts.push(`-o ${name}.wav`);
  return make("pre", { tabindex: "0" }, [...parts, `${location.origin}${path}`].join(" "));
}

function method(path, verb, operation) {
  const summary = make("summary", {}, make("span", { class: "verb" }, verb), make("span", { class: "path" }, path));
  summary.append(operation.summary);
  const node = make("details", { class: "method", id: operation.operationId }, summary);
  node.append(...prose(operation.description || ""));
  if (operation.parameters) {
    node.append(table("Query", operation.parameters.map((one) => row(one.name, one.schema, one.description))));
  }
  const json = operation.requestBody?.content["application/json"];
  if (json) node.append(table("Body", fields(resolved(json.schema).schema)));
  else if (operation.requestBody) node.append(make("h4", {}, "Body"), ...prose(operation.requestBody.description));
  const [[type, reply]] = Object.entries(operation.responses["200"].content);
  node.append(make("h4", {}, "Reply"), ...prose(operation.responses["200"].description));
  if (type === "application/json") {
    const inner = reply.schema.items || reply.schema;
    node.append(table("", fields(resolved(inner).schema)));
  } else {
    node.append(make("p", {}, Object.keys(operation.responses["200"].content).join(", ")));
  }
  node.append(make("h4", {}, "Try it"), curl(path, verb, operation), form(path, verb, operation));
  return node;
}

async function draw() {
  const main = document.getElementById("methods");
  try {
    spec = await (await fetch("/openapi.json")).json();
  } catch (error) {
    main.append(make("p", { role: "alert" }, `openapi.json did not come: ${error}`));
    return;
  }
  document.getElementById("title").textContent = `${spec.info.title} ${spec.info.version}`;
  document.getElementById("description").replaceChildren(...prose(spec.info.description));
  for (const tag of spec.tags) {
    main.append(make("h2", {}, tag.name), ...prose(tag.description));
    for (const [path, verbs] of Object.entries(spec.paths)) {
      for (const [verb, operation] of Object.entries(verbs)) {
        if (operation.tags.includes(tag.name)) main.append(method(path, verb, operation));
      }
    }
  }
  main.append(make("h2", {}, "Messages"));
  for (const [name, schema] of Object.entries(spec.components.schemas)) {
    main.append(make("h3", { id: `schema-${name}` }, name), ...prose(schema.description || ""));
    if (schema.properties) main.append(table("", fields(schema)));
  }
  main.setAttribute("aria-busy", "false");
}

draw();
