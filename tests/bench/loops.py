"""The loops that are compared: ours at each precision, AudioCraft's, transformers'.

Each makes N guided pieces together, as its users would: `generate` makes them whole, with their audio, `position`
times steps at one place of a piece. Speed does not depend on what weights say, so transformers has random ones of the
same shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from services.generator.engine import GeneratorEngine
from services.generator.requests import GenerationRequest
from services.models.conditions import Prompt
from services.models.execution import Precision
from services.models.loader import LoadedGenerator
from services.models.sampling import Sampling

PROMPTS = ("a slow piano melody in C minor", "fast happy guitar with drums at 140 bpm")
GUIDANCE, TOP_K = 3.0, 250
TIMED_STEPS = 8


@dataclass(frozen=True)
class Figures:
    """What one number of streams gave. A quick run has only the first."""

    ms_per_step: float
    rtf: float | None = None
    first_audio_seconds: float | None = None


class Loop(Protocol):
    """A way to make guided pieces."""

    name: str

    def generate(self, count: int, frames: int) -> Figures:
        """Make ``count`` pieces together."""
        ...

    def position(self, count: int, position: int) -> float:
        """Return the milliseconds of a step, with sampling, at a position of the pieces."""
        ...


class Ours:
    """The engine as the scheduler drives it."""

    def __init__(self, loaded: LoadedGenerator, precision: Precision) -> None:
        self.name = f"ours_{precision}"
        self.engine = GeneratorEngine(loaded, precision)
        self._decoding = 0.0
        codec = self.engine._codec
        codec.decode_many = self._timed(codec.decode_many)  # type: ignore[method-assign]

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            begin = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                self._decoding += time.perf_counter() - begin

        return timed

    def generate(self, count: int, frames: int) -> Figures:
        self._decoding, first_audio, stepping, steps = 0.0, 0.0, 0.0, 0
        begin = time.perf_counter()
        sequences = [self.engine.begin(self._request(index, frames)) for index in range(count)]
        waiting, final = set(range(count)), False
        while not final:
            before = time.perf_counter()
            outputs = self.engine.step(sequences)
            stepping += time.perf_counter() - before
            steps += 1
            waiting -= {index for index in waiting if outputs[index].audio.numel()}
            if not waiting and not first_audio:
                first_audio = time.perf_counter() - begin
            final = outputs[0].final  # all are of one length
        elapsed = time.perf_counter() - begin
        for sequence in sequences:
            self.engine.release(sequence)
        seconds = count * frames / self.engine.info.frame_rate_hz
        return figures((stepping - self._decoding) / steps, seconds / elapsed, first_audio)

    def position(self, count: int, position: int) -> float:
        sequences = [self.engine.begin(self._request(index, position + 2 * TIMED_STEPS)) for index in range(count)]
        known = torch.zeros(position - 1, self.engine.info.codebook_count, dtype=torch.long)
        for sequence in sequences:
            self.engine._executor.step([sequence.state], [known], [GUIDANCE])
        milliseconds = median_ms(lambda: self.engine._draw(sequences))
        for sequence in sequences:
            self.engine.release(sequence)
        return milliseconds

    def _request(self, index: int, frames: int) -> GenerationRequest:
        sampling = Sampling(seed=index, cfg_coef=GUIDANCE, top_k=TOP_K)
        return GenerationRequest(self.engine.info.name, (Prompt(PROMPTS[index % 2]),), frames, sampling)


class TheirLoop:
    """``lm.generate`` over a batch, then ``codec.decode`` of the whole, as its MusicGen does."""

    name = "audiocraft"

    def __init__(self, loaded: LoadedGenerator) -> None:
        self._loaded = loaded

    @torch.no_grad()
    def generate(self, count: int, frames: int) -> Figures:
        steps = frames + self._loaded.info.codebook_count - 1
        begin = time.perf_counter()
        codes = self._loaded.lm.generate(
            conditions=self._conditions(count), max_gen_len=frames, cfg_coef=GUIDANCE, top_k=TOP_K
        )
        stepping = time.perf_counter() - begin
        # On the CPU, as a caller gets it: with a GPU this also waits for its end.
        self._loaded.codec.decode(codes, None).cpu()
        elapsed = time.perf_counter() - begin
        return figures(stepping / steps, count * frames / self._loaded.info.frame_rate_hz / elapsed, elapsed)

    @torch.no_grad()
    def position(self, count: int, position: int) -> float:
        from audiocraft.modules.conditioners import ClassifierFreeGuidanceDropout

        lm = self._loaded.lm
        conditions = self._conditions(count)
        both = conditions + ClassifierFreeGuidanceDropout(p=1.0)(conditions)
        tensors = lm.condition_provider(lm.condition_provider.tokenize(both))
        token = torch.zeros(count, lm.n_q, 1, dtype=torch.long, device=lm.emb[0].weight.device)
        with lm.streaming():
            lm(torch.cat([token, token]).repeat(1, 1, position - 1), [], tensors)
            return median_ms(
                lambda: lm._sample_next_token(
                    token, tensors, {}, use_sampling=True, temp=1.0, top_k=TOP_K, top_p=0.0, cfg_coef=GUIDANCE
                )
            )

    def _conditions(self, count: int) -> list[Any]:
        from audiocraft.modules.conditioners import ConditioningAttributes

        return [ConditioningAttributes(text={"description": PROMPTS[index % 2]}) for index in range(count)]


class Transformers:
    """``MusicgenForConditionalGeneration.generate`` over a batch."""

    def __init__(self, loaded: LoadedGenerator, dtype: torch.dtype) -> None:
        from transformers import EncodecConfig, MusicgenConfig, MusicgenDecoderConfig, T5Config
        from transformers import MusicgenForConditionalGeneration as Model

        self.name = "transformers_fp32" if dtype == torch.float32 else "transformers_bf16"
        lm, info = loaded.lm, loaded.info
        layer = lm.transformer.layers[0]
        self._device = lm.emb[0].weight.device
        self._frame_rate_hz = info.frame_rate_hz
        decoder = MusicgenDecoderConfig(
            vocab_size=info.codebook_size,
            num_codebooks=info.codebook_count,
            hidden_size=lm.dim,
            ffn_dim=layer.linear1.out_features,
            num_hidden_layers=len(lm.transformer.layers),
            num_attention_heads=layer.self_attn.num_heads,
            # As in facebook/musicgen-small.
            bos_token_id=info.codebook_size,
            pad_token_id=info.codebook_size,
        )
        text = T5Config(d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, vocab_size=512)
        codec = EncodecConfig(
            target_bandwidths=[2.2],
            sampling_rate=32_000,
            num_filters=64,
            upsampling_ratios=[8, 5, 4, 4],
            use_causal_conv=False,
            codebook_size=info.codebook_size,
            use_conv_shortcut=False,
        )
        torch.manual_seed(0)
        config = MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder)
        self._model = Model(config).to(self._device, dtype).eval()
        self._decoding = 0.0
        decode = self._model.audio_encoder.decode
        self._model.audio_encoder.decode = self._timed(decode)

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                self._decoding += time.perf_counter() - begin

        return timed

    @torch.no_grad()
    def generate(self, count: int, frames: int) -> Figures:
        self._decoding = 0.0
        steps = frames + self._model.config.decoder.num_codebooks - 1
        begin = time.perf_counter()
        self._model.generate(
            **self._inputs(count), max_new_tokens=steps, do_sample=True, top_k=TOP_K, guidance_scale=GUIDANCE
        ).cpu()
        elapsed = time.perf_counter() - begin
        return figures((elapsed - self._decoding) / steps, count * frames / self._frame_rate_hz / elapsed, elapsed)

    @torch.no_grad()
    def position(self, count: int, position: int) -> float:
        from transformers import DynamicCache, EncoderDecoderCache
        from transformers.generation import TopKLogitsWarper

        decoder, books = self._model.decoder, self._model.config.decoder.num_codebooks
        source = self._model.text_encoder(**self._inputs(2 * count)).last_hidden_state
        if hasattr(self._model, "enc_to_dec_proj"):
            source = self._model.enc_to_dec_proj(source)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        token = torch.zeros(2 * count * books, 1, dtype=torch.long, device=self._device)
        decoder(token.repeat(1, position - 1), encoder_hidden_states=source, past_key_values=cache, use_cache=True)
        warp = TopKLogitsWarper(TOP_K)

        def step() -> None:
            logits = decoder(token, encoder_hidden_states=source, past_key_values=cache, use_cache=True).logits
            conditional, unconditional = logits[:, -1].float().chunk(2)
            scores = warp(None, unconditional + (conditional - unconditional) * GUIDANCE)
            torch.multinomial(scores.softmax(dim=-1), 1)

        return median_ms(step)

    def _inputs(self, count: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(2, 500, (count, 10), device=self._device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def loops(loaded: LoadedGenerator, wanted: Callable[[str], bool]) -> Iterator[Loop]:
    """Yield the loops one after the other, so that only one has weights in memory of its own."""
    if loaded.info.device.startswith("cuda"):
        precisions: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
    else:
        precisions = ("int8", "bf16", "fp32")
    for precision in precisions:
        if wanted(f"ours_{precision}"):
            yield Ours(loaded, precision)
    if wanted(TheirLoop.name):
        yield TheirLoop(loaded)
    for name, dtype in (("transformers_bf16", torch.bfloat16), ("transformers_fp32", torch.float32)):
        if wanted(name):
            yield Transformers(loaded, dtype)


def figures(seconds_per_step: float, rtf: float, first_audio: float) -> Figures:
    return Figures(round(1000 * seconds_per_step, 3), round(rtf, 3), round(first_audio, 4))


def median_ms(step: Callable[[], object]) -> float:
    """Return the milliseconds of the middle one of some calls; the first is not counted."""
    times = []
    for _ in range(1 + TIMED_STEPS):
        begin = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return 1000 * sorted(times[1:])[TIMED_STEPS // 2]
