/** Codes of a neural codec, packed as `CodeFrames` in audio.proto describes: least significant bit first. */
import { create } from "@bufbuild/protobuf";

import { ProtocolError } from "./errors.js";
import { CodeFramesSchema, type CodeFrames } from "./gen/antiphon/v1/audio_pb.js";

const MAX_BITS = 16;

/** Returns the codes frame by frame, and in a frame codebook by codebook. Throws ProtocolError on wrong counts. */
export function unpackCodes(frames: CodeFrames): Uint16Array {
  const { frameCount, codebookCount, bitsPerCode: bits, data } = frames;
  const count = frameCount * codebookCount;
  if (bits < 1 || bits > MAX_BITS || codebookCount < 1 || data.length !== Math.ceil((count * bits) / 8)) {
    throw new ProtocolError(`codes: ${data.length} bytes are not ${count} codes of ${bits} bits`);
  }
  const codes = new Uint16Array(count);
  let held = 0;
  let heldBits = 0;
  let next = 0;
  for (let index = 0; index < count; index++) {
    while (heldBits < bits) {
      held |= (data[next++] ?? 0) << heldBits;
      heldBits += 8;
    }
    codes[index] = held & ((1 << bits) - 1);
    held >>>= bits;
    heldBits -= bits;
  }
  return codes;
}

/** Packs codes that stand frame by frame, each in `bits` bits. */
export function packCodes(codes: Uint16Array, codebookCount: number, bits: number): CodeFrames {
  const data = new Uint8Array(Math.ceil((codes.length * bits) / 8));
  let held = 0;
  let heldBits = 0;
  let next = 0;
  for (const code of codes) {
    held |= code << heldBits;
    heldBits += bits;
    while (heldBits >= 8) {
      data[next++] = held & 0xff;
      held >>>= 8;
      heldBits -= 8;
    }
  }
  if (heldBits) data[next] = held & 0xff;
  const frameCount = codes.length / codebookCount;
  return create(CodeFramesSchema, { frameCount, codebookCount, bitsPerCode: bits, data });
}
