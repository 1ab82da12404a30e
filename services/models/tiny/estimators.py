"""Hears what a piece of audio is: its instrument or kind of sound, its tempo, its mode.

Small networks, trained on codec reconstructions of renders: on clean renders they would not know what the codec does
to a sound. Their own score on reconstructions of held-out renders is the ceiling of every figure that they give.

- ``timbre``: level, spread and movement of log-mel bands, for instruments and kinds of sound;
- ``pulse``: autocorrelation of the onsets in three bands, for the tempo;
- ``harmony``: how strong each pitch class is, alone, in the bass, at the start and together with others, for the mode.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchaudio
from torch import nn
from torch.nn import functional

PULSE_HOP_SECONDS = 0.01
_LAGS = (20, 220)
"""In hops: from 0.2 s, an eighth at 150 bpm, to 2.2 s, two beats at 55."""
_INTERVALS = (3, 4, 7)
"""Minor third, major third, fifth, in semitones."""
_WEIGHT_DECAY, _EPOCHS = 0.02, 250


class Classifier:
    """A network of one hidden layer over standardised inputs.

    Args:
        inputs: float32 ``[N, D]``, or ``[N, R, D]`` for R views of each whose scores stand side by side.
        targets: int64 ``[N]``, below ``classes``; with views, ``view * classes + class``.
    """

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor, classes: int, hidden: int = 48) -> None:
        rows = inputs.reshape(-1, inputs.shape[-1])
        self._mean, self._spread = rows.mean(0), rows.std(0) + 1e-4
        self.classes = classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._hidden, self._out = nn.Linear(rows.shape[1], hidden), nn.Linear(hidden, classes)
            parameters = [*self._hidden.parameters(), *self._out.parameters()]
            optimiser = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=_WEIGHT_DECAY)
            for _ in range(_EPOCHS):
                for batch in torch.split(torch.randperm(len(inputs)), 128):
                    scores = self._scores(inputs[batch], dropout=0.3)
                    optimiser.zero_grad()
                    torch.autograd.backward(functional.cross_entropy(scores, targets[batch], label_smoothing=0.05))
                    optimiser.step()

    @torch.no_grad()
    def probabilities(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[N, classes]``, summed over the views where there are any."""
        scores: torch.Tensor = self._scores(inputs).softmax(-1).view(len(inputs), -1, self.classes)
        return scores.sum(1)

    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the likeliest class of each, int64 ``[N]``."""
        return self.probabilities(inputs).argmax(-1)

    @torch.no_grad()
    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the hidden layer makes of inputs ``[N, D]``: ``[N, hidden]``."""
        return functional.relu(self._hidden((inputs - self._mean) / self._spread))

    def _scores(self, inputs: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
        hidden = self._hidden((inputs - self._mean) / self._spread).relu()
        return torch.flatten(self._out(functional.dropout(hidden, dropout)), 1)


def timbre(audio: torch.Tensor, rate: int) -> torch.Tensor:
    """Return features ``[N, 256]`` of mono audio ``[N, T]``, each piece brought to one level."""
    level = audio / audio.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-4)
    mel = torchaudio.transforms.MelSpectrogram(rate, n_fft=2048, hop_length=512, n_mels=64, f_max=8000.0)
    log = (mel(level) + 1e-3).log()
    change = log.diff(dim=-1)
    return torch.cat([log.mean(-1), log.std(-1), change.abs().mean(-1), change.std(-1)], dim=-1)


def pulse(audio: torch.Tensor, rate: int) -> torch.Tensor:
    """Return features ``[N, 3 * 200]``: autocorrelations of the onsets, low, middle and high."""
    mel = torchaudio.transforms.MelSpectrogram(rate, n_fft=1024, hop_length=round(rate * PULSE_HOP_SECONDS), n_mels=40)
    log = (mel(audio / audio.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-4)) + 1e-2).log()
    onsets = log.diff(dim=-1).clamp(min=0.0)
    bands = torch.stack([onsets[:, :5].mean(1), onsets[:, 5:20].mean(1), onsets[:, 20:].mean(1)], dim=1)
    bands = bands - bands.mean(-1, keepdim=True)
    length = bands.shape[-1]
    power = torch.fft.rfft(bands, 2 * length).abs().square()
    correlation = torch.fft.irfft(power)[..., : _LAGS[1]]
    normed: torch.Tensor = correlation / correlation[..., :1].clamp(min=1e-6)
    return normed[..., _LAGS[0] :].flatten(1)


def harmony(audio: torch.Tensor, rate: int) -> torch.Tensor:
    """Return features ``[N, 12, 84]`` as each of the twelve pitch classes sees them: one view for each tonic."""
    size = 8192
    spectrum = torch.stft(audio, size, size // 4, window=torch.hann_window(size), return_complex=True).abs()
    frequencies = torch.arange(spectrum.shape[1]) * rate / size
    chroma = pitch_classes(spectrum, frequencies, 110.0, 1500.0)
    bass = pitch_classes(spectrum, frequencies, 55.0, 180.0)
    first = chroma[..., : max(1, round(1.2 * rate / (size // 4)))]
    pairs = [chroma * chroma.roll(-interval, 1) for interval in _INTERVALS]
    parts = torch.stack([part.mean(-1) for part in (chroma, bass, first, *pairs)], dim=1)
    parts = torch.cat([parts, (parts[:, 4] - parts[:, 3])[:, None]], dim=1)
    return torch.stack([parts.roll(-tonic, 2).flatten(1) for tonic in range(12)], dim=1)


def pitch_classes(spectrum: torch.Tensor, frequencies: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return the share of each pitch class, ``[N, 12, frames]``, between two frequencies."""
    inside = (frequencies >= low) & (frequencies <= high)
    pitches = 69 + 12 * torch.log2(frequencies[inside] / 440.0)
    nearness = torch.exp(-0.5 * ((pitches - pitches.round()) / 0.25).square())
    weights = functional.one_hot(pitches.round().long() % 12, 12).float() * nearness[:, None]
    found: torch.Tensor = torch.einsum(
        "nft,fc->nct", spectrum[:, inside].sqrt(), weights / weights.sum(0).clamp(min=1e-6)
    )
    return functional.normalize(found, dim=1, eps=1e-6)


def frechet_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the Fréchet distance between Gaussians fitted to embeddings ``[N, D]`` and ``[M, D]``.

    As in the Fréchet audio distance (Kilgour et al., arXiv 1812.08466), in an embedding of our own.
    """
    one, other = one.double(), other.double()
    first, second = torch.cov(one.T), torch.cov(other.T)
    # The trace of the root of a product of two covariances is the sum of the roots of its eigenvalues.
    roots = torch.linalg.eigvals(first @ second).real.clamp(min=0.0).sqrt().sum()
    return float((one.mean(0) - other.mean(0)).square().sum() + first.trace() + second.trace() - 2 * roots)


def within(estimates: Sequence[float], asked: Sequence[float], share: float = 0.06) -> float:
    """Return how many estimates are within a share of what was asked, from 0 to 1."""
    return sum(abs(e - a) <= share * a for e, a in zip(estimates, asked, strict=True)) / len(asked)
