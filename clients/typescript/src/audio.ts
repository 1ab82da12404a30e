/** Samples and how they travel. */
import { ProtocolError } from "./errors.js";
import { AudioEncoding, type AudioFormat } from "./gen/antiphon/v1/audio_pb.js";

/** Audio as numbers: one array a channel, full scale 1. */
export interface Audio {
  readonly channels: readonly Float32Array<ArrayBuffer>[];
  readonly sampleRateHz: number;
}

/** How the samples of a stream travel. */
export type PcmEncoding = "pcm_f32le" | "pcm_s16le";

export const PCM: Readonly<Record<PcmEncoding, AudioEncoding>> = {
  pcm_f32le: AudioEncoding.PCM_F32LE,
  pcm_s16le: AudioEncoding.PCM_S16LE,
};

/** Returns the channels of interleaved PCM. Throws ProtocolError where it is not what `format` says. */
export function readPcm(data: Uint8Array, format: AudioFormat): Float32Array<ArrayBuffer>[] {
  const { channelCount, encoding } = format;
  const isFloat = encoding === AudioEncoding.PCM_F32LE;
  if (!isFloat && encoding !== AudioEncoding.PCM_S16LE) throw new ProtocolError("format: no PCM, which was asked for");
  const width = isFloat ? 4 : 2;
  if (channelCount < 1 || data.length % (width * channelCount) !== 0) {
    throw new ProtocolError(`audio: ${data.length} bytes are not whole samples of ${channelCount} channels`);
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const count = data.length / width / channelCount;
  return Array.from({ length: channelCount }, (_, channel) => {
    const samples = new Float32Array(count);
    for (let index = 0; index < count; index++) {
      const at = (index * channelCount + channel) * width;
      samples[index] = isFloat ? view.getFloat32(at, true) : view.getInt16(at, true) / 32767;
    }
    return samples;
  });
}

/** Returns audio as a 16-bit WAV file. What passes full scale is clipped. */
export function toWav(audio: Audio): Uint8Array<ArrayBuffer> {
  const { channels, sampleRateHz } = audio;
  const count = channels[0]?.length ?? 0;
  const size = count * channels.length * 2;
  const bytes = new Uint8Array(44 + size);
  const view = new DataView(bytes.buffer);
  const text = (at: number, value: string) => bytes.set(new TextEncoder().encode(value), at);
  text(0, "RIFF");
  view.setUint32(4, 36 + size, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels.length, true);
  view.setUint32(24, sampleRateHz, true);
  view.setUint32(28, sampleRateHz * channels.length * 2, true);
  view.setUint16(32, channels.length * 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, size, true);
  channels.forEach((samples, channel) => {
    for (let index = 0; index < count; index++) {
      const clipped = Math.max(-1, Math.min(1, samples[index] ?? 0));
      view.setInt16(44 + (index * channels.length + channel) * 2, Math.round(clipped * 32767), true);
    }
  });
  return bytes;
}

/** Returns pieces of audio as one. They must have one rate and the same channels. */
export function joined(pieces: readonly Audio[]): Audio {
  const first = pieces[0];
  if (!first) throw new RangeError("pieces: none");
  const count = pieces.reduce((sum, piece) => sum + (piece.channels[0]?.length ?? 0), 0);
  const channels = first.channels.map((_, channel) => {
    const whole = new Float32Array(count);
    let at = 0;
    for (const piece of pieces) {
      const samples = piece.channels[channel];
      if (!samples || piece.sampleRateHz !== first.sampleRateHz) throw new RangeError("pieces: not of one form");
      whole.set(samples, at);
      at += samples.length;
    }
    return whole;
  });
  return { channels, sampleRateHz: first.sampleRateHz };
}
