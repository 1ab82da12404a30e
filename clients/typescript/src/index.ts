/** Streams music and sound from an Antiphon server, in browsers and in Node. */
export { joined, toWav, type Audio, type PcmEncoding } from "./audio.js";
export { Client } from "./client.js";
export type {
  Analysis,
  AnalyzedWindow,
  AnalyzeOptions,
  ClientOptions,
  EncodedAudio,
  EncodeOptions,
  EvidencePicture,
  Scores,
  VerdictName,
} from "./client.js";
export { packCodes, unpackCodes } from "./codes.js";
export {
  AntiphonError,
  CancelledError,
  DeadlineExceededError,
  FailedPreconditionError,
  InternalError,
  InvalidArgumentError,
  NotFoundError,
  PermissionDeniedError,
  ProtocolError,
  ResourceExhaustedError,
  UnauthenticatedError,
  UnavailableError,
  UnimplementedError,
  type FieldViolation,
} from "./errors.js";
export { Generation } from "./generation.js";
export type { Applied, CallSettings, Chunk, GenerationEvents } from "./generation.js";
export type { Finished, GenerationOptions, Prompt, Sampling, Started } from "./messages.js";
export { GenerationMode, ModelKind, type ModelInfo } from "./gen/antiphon/v1/audio_pb.js";
export type { CodecInfo } from "./gen/antiphon/v1/codec_pb.js";
