/** Two versions of a piece that run side by side: one is heard, and the ear may change over at any time. */
export class Comparison {
  readonly context = new AudioContext();
  /** Called with the seconds that have run while it plays, and with undefined when it ends. */
  onMove: (seconds: number | undefined) => void = () => undefined;
  #buffers: readonly AudioBuffer[] = [];
  #playing: { source: AudioBufferSourceNode; gain: GainNode }[] = [];
  #heard = 0;
  #startedAt = 0;

  get isPlaying(): boolean {
    return this.#playing.length > 0;
  }

  /** Takes the versions. */
  load(buffers: readonly AudioBuffer[]): void {
    this.stop();
    this.#buffers = buffers;
  }

  /** Makes a version out of samples. */
  buffer(channels: readonly Float32Array<ArrayBuffer>[], sampleRateHz: number): AudioBuffer {
    const buffer = this.context.createBuffer(channels.length, Math.max(1, channels[0]?.length ?? 0), sampleRateHz);
    channels.forEach((samples, channel) => buffer.copyToChannel(samples, channel));
    return buffer;
  }

  /** Chooses which version is heard. */
  hear(version: number): void {
    this.#heard = version;
    // Short, but not so short that it clicks.
    this.#playing.forEach(({ gain }, index) => gain.gain.setTargetAtTime(index === version ? 1 : 0, this.context.currentTime, 0.008));
  }

  async play(fromSeconds: number): Promise<void> {
    this.stop();
    await this.context.resume();
    const begin = this.context.currentTime + 0.05;
    this.#startedAt = begin - fromSeconds;
    this.#playing = this.#buffers.map((buffer, index) => {
      const gain = this.context.createGain();
      gain.gain.value = index === this.#heard ? 1 : 0;
      const source = this.context.createBufferSource();
      source.buffer = buffer;
      source.connect(gain).connect(this.context.destination);
      source.start(begin, fromSeconds);
      return { source, gain };
    });
    const first = this.#playing[0]?.source;
    if (first) first.onended = () => this.stop();
    const follow = () => {
      if (!this.isPlaying) return;
      this.onMove(Math.max(0, this.context.currentTime - this.#startedAt));
      requestAnimationFrame(follow);
    };
    follow();
  }

  stop(): void {
    const playing = this.#playing;
    this.#playing = [];
    for (const { source } of playing) {
      source.onended = null;
      source.stop();
    }
    if (playing.length) this.onMove(undefined);
  }
}
