// k6's gRPC client against the edge: `k6 run -e TARGET=host:port -e PROTOS=folder -e INCLUDE=folder k6.js`.
import { check } from "k6";
import grpc from "k6/net/grpc";

export const options = { vus: 2, iterations: 4, thresholds: { checks: ["rate==1"] } };

const client = new grpc.Client();
client.load([__ENV.PROTOS, __ENV.INCLUDE], "antiphon/v1/generator.proto");

export default function () {
  client.connect(__ENV.TARGET, { plaintext: true });
  const models = client.invoke("antiphon.v1.GeneratorService/ListModels", {});
  check(models, {
    "models: OK": (reply) => reply.status === grpc.StatusOK,
    "models: there are some": (reply) => reply.message.models.length > 0,
  });
  const config = { prompts: [{ text: "slow sad piano" }], duration: "0.5s", seed: 1 };
  const piece = client.invoke("antiphon.v1.GeneratorService/Generate", { config }, { timeout: "60s" });
  check(piece, {
    "piece: OK": (reply) => reply.status === grpc.StatusOK,
    "piece: half a second": (reply) => reply.message.finished.audioDuration === "0.500s",
  });
  const wrong = client.invoke("antiphon.v1.GeneratorService/Generate", { config: { ...config, duration: "-1s" } });
  check(wrong, { "wrong: INVALID_ARGUMENT": (reply) => reply.status === grpc.StatusInvalidArgument });
  client.close();
}
