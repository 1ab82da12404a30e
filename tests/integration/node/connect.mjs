// Connect for Node against the edge: `node connect.mjs PROTOCOL URL DESCRIPTORS`, PROTOCOL grpc or grpc-web.
// Prints one JSON object of what it saw.
import { readFileSync } from "node:fs";
import { create, createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";

const [protocol, baseUrl, descriptors] = process.argv.slice(2);
const transport =
  protocol === "grpc"
    ? createGrpcTransport({ baseUrl })
    : createGrpcWebTransport({ baseUrl, httpVersion: "1.1" });
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
const client = (name) => createClient(registry.getService(`antiphon.v1.${name}`), transport);
const generator = client("GeneratorService");
const seen = {};

seen.models = (await generator.listModels({})).models.map((model) => model.name);
seen.health = (await client("SystemService").getHealth({})).status;

try {
  await generator.generate({ config: { prompts: [{ text: "x" }], duration: { seconds: -1n } } });
} catch (error) {
  const connectError = ConnectError.from(error);
  const bad = registry.getMessage("google.rpc.BadRequest");
  seen.error = Code[connectError.code];
  seen.fields = connectError.findDetails(bad).flatMap((one) => one.fieldViolations.map((violation) => violation.field));
}

// Ten minutes with a second of credit: what comes after that second, the calls below have caused.
const config = {
  prompts: [{ text: "calm piano" }],
  duration: { seconds: 600n },
  seed: 5n,
  pacing: { initialCredit: { seconds: 1n } },
};
let replica;
const responses = generator.openGeneration({ config }, { onHeader: (headers) => (replica = headers.get("x-antiphon-stream")) });
let streamId;
let rate;
let heard = 0;
for await (const { streamId: named, response } of responses) {
  streamId ||= named;
  const control = (command) =>
    generator.controlGeneration({ streamId, command }, { headers: { "x-antiphon-stream": replica } });
  const { case: kind, value } = response.response;
  if (kind === "started") rate = value.format.sampleRateHz;
  if (kind === "finished") seen.reason = value.reason;
  if (kind !== "audio") continue;
  heard += value.sampleCount;
  if (heard === rate) {
    seen.paused = true;
    await control({ case: "credit", value: { duration: { seconds: 1n } } });
  }
  if (heard === 2 * rate) await control({ case: "control", value: { action: 3 } });
}
seen.seconds = heard / rate;

if (protocol === "grpc") {
  // Both ways at once: the stop goes out when the first audio has come.
  let stop;
  const stopped = new Promise((resolve) => (stop = resolve));
  async function* requests() {
    yield { request: { case: "config", value: { ...config, pacing: undefined } } };
    await stopped;
    yield { request: { case: "control", value: { action: 3 } } };
  }
  for await (const { response } of generator.streamGenerate(requests())) {
    if (response.case === "audio") stop();
    if (response.case === "finished") seen.bidi = response.value.reason;
  }
}
console.log(JSON.stringify(seen));
