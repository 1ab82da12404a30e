/**
 * Everything that the package throws.
 *
 * AntiphonError
 * ├── InvalidArgumentError      a field of the request is wrong; `violations` names it
 * ├── NotFoundError             no such model
 * ├── FailedPreconditionError   the call came at the wrong time
 * ├── ResourceExhaustedError    the server is full; `retryAfterSeconds` says when to come again
 * ├── UnavailableError          nobody answers, or the connection broke
 * ├── DeadlineExceededError     the timeout ran out
 * ├── CancelledError            the call was cancelled
 * ├── UnauthenticatedError      no API key, or a wrong one
 * ├── PermissionDeniedError     the API key does not allow this
 * ├── UnimplementedError        the server or the model can't do it
 * ├── InternalError             the server failed
 * └── ProtocolError             the server broke the contract: a gap in the chunks, an early end
 */
import { Code, ConnectError } from "@connectrpc/connect";

import { BadRequestSchema, ErrorInfoSchema, RequestInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

/** A field of the request that the server, or the client before sending, refuses. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** What is known of an error besides its sentence. */
export interface ErrorDetails {
  /** The gRPC status code. */
  code?: Code;
  /** A constant that programs may compare, such as "MODEL_NOT_FOUND"; empty when there is none. */
  reason?: string;
  /** The id under which the server logged the call; empty when the call was not sent. */
  requestId?: string;
  /** The fields that are to blame. */
  violations?: readonly FieldViolation[];
  /** How long the server asks to wait before the next try. */
  retryAfterSeconds?: number | undefined;
  cause?: unknown;
}

/** What all errors of the package have in common. */
export class AntiphonError extends Error {
  readonly code: Code;
  readonly reason: string;
  readonly requestId: string;
  readonly violations: readonly FieldViolation[];
  readonly retryAfterSeconds: number | undefined;

  constructor(message: string, details: ErrorDetails = {}, code: Code = Code.Unknown) {
    super(message, { cause: details.cause });
    this.name = new.target.name;
    this.code = details.code ?? code;
    this.reason = details.reason ?? "";
    this.requestId = details.requestId ?? "";
    this.violations = details.violations ?? [];
    this.retryAfterSeconds = details.retryAfterSeconds;
  }
}

/** Makes an error class whose code is known; the name is given because bundlers shorten those of classes. */
function kind(name: string, code: Code) {
  return class extends AntiphonError {
    constructor(message: string, details: ErrorDetails = {}) {
      super(message, details, code);
      this.name = name;
    }
  };
}

export class InvalidArgumentError extends kind("InvalidArgumentError", Code.InvalidArgument) {}
export class NotFoundError extends kind("NotFoundError", Code.NotFound) {}
export class FailedPreconditionError extends kind("FailedPreconditionError", Code.FailedPrecondition) {}
export class ResourceExhaustedError extends kind("ResourceExhaustedError", Code.ResourceExhausted) {}
export class UnavailableError extends kind("UnavailableError", Code.Unavailable) {}
export class DeadlineExceededError extends kind("DeadlineExceededError", Code.DeadlineExceeded) {}
export class CancelledError extends kind("CancelledError", Code.Canceled) {}
export class UnauthenticatedError extends kind("UnauthenticatedError", Code.Unauthenticated) {}
export class PermissionDeniedError extends kind("PermissionDeniedError", Code.PermissionDenied) {}
export class UnimplementedError extends kind("UnimplementedError", Code.Unimplemented) {}
export class InternalError extends kind("InternalError", Code.Internal) {}
export class ProtocolError extends kind("ProtocolError", Code.DataLoss) {}

const BY_CODE: ReadonlyMap<Code, new (message: string, details: ErrorDetails) => AntiphonError> = new Map([
  [Code.InvalidArgument, InvalidArgumentError],
  [Code.OutOfRange, InvalidArgumentError],
  [Code.NotFound, NotFoundError],
  [Code.FailedPrecondition, FailedPreconditionError],
  [Code.AlreadyExists, FailedPreconditionError],
  [Code.Aborted, FailedPreconditionError],
  [Code.ResourceExhausted, ResourceExhaustedError],
  [Code.Unavailable, UnavailableError],
  [Code.DeadlineExceeded, DeadlineExceededError],
  [Code.Canceled, CancelledError],
  [Code.Unauthenticated, UnauthenticatedError],
  [Code.PermissionDenied, PermissionDeniedError],
  [Code.Unimplemented, UnimplementedError],
  [Code.Internal, InternalError],
  [Code.Unknown, InternalError],
  [Code.DataLoss, InternalError],
]);

/** Returns the error of ours that stands for whatever a call threw; `requestId` where the server does not repeat it. */
export function fromThrown(thrown: unknown, requestId: string): AntiphonError {
  if (thrown instanceof AntiphonError) return thrown;
  const error = ConnectError.from(thrown);
  const details: ErrorDetails = { cause: thrown, requestId };
  const [request] = error.findDetails(RequestInfoSchema);
  if (request?.requestId) details.requestId = request.requestId;
  if (isBroken(error)) return new UnavailableError(`the connection broke: ${error.rawMessage}`, details);
  details.code = error.code;
  details.violations = error.findDetails(BadRequestSchema).flatMap((one) =>
    one.fieldViolations.map(({ field, description }) => ({ field, description })),
  );
  details.reason = error.findDetails(ErrorInfoSchema)[0]?.reason ?? "";
  const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  if (delay) details.retryAfterSeconds = Number(delay.seconds) + delay.nanos / 1e9;
  const message = error.rawMessage || Code[error.code] || "unknown";
  return new (BY_CODE.get(error.code) ?? AntiphonError)(message, details);
}

/** Returns an id for a call. Not randomUUID, which pages without TLS do not have. */
export function newRequestId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Whether no status of a server ended the call: fetch failed, or the body ended early: before the trailers, or in a message. */
function isBroken(error: ConnectError): boolean {
  const early = error.cause === "missing trailer" || /missing trailer|premature end|incomplete envelope/.test(error.rawMessage);
  return early || error.cause instanceof TypeError;
}
