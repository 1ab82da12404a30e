"""Loads AudioCraft checkpoints by name, and never the code in them.

A name is ``tiny`` (embedded), a folder, or a Hugging Face id such as ``facebook/musicgen-small``. A checkpoint is
what AudioCraft exports: ``state_dict.bin`` (the language model) and ``compression_state_dict.bin`` (the codec, or
only the name of a pretrained Hugging Face EnCodec). Files are unpickled with ``weights_only``: whatever else they
hold is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from services.models import magnet
from services.models.checkpoint import (
    CODEC_FILE,
    EMBEDDED,
    LM_FILE,
    CheckpointError,
    config_of,
    find,
    is_transformers,
    read,
)
from services.models.conditions import MELODY, TEXT
from services.models.melody import SeparatorError, separators, steady
from services.models.sampling import DEFAULT_SAMPLING, Sampling

# xformers serves AudioCraft one import and is built for another torch: its warning says nothing to our users.
logging.getLogger("xformers").setLevel(logging.ERROR)
logging.getLogger("audiocraft").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*weight_norm.*", category=FutureWarning)

LICENSES = dict.fromkeys(EMBEDDED, "MIT")
MODES = ("continuation", "melody", "extension", "mixing", "stepwise")
"""What a generator may do: go on from audio, keep a melody, pass its window, take several prompts at once and others
in mid-stream, and send audio while it is made; what can be resumed or has no end needs that."""
SOUND_SOLVERS = ("audiogen", "audio_magnet")
STRIDE_SECONDS = {"music": 18.0, "sound": 2.0}
"""AudioCraft's, of MusicGen and AudioGen."""


@dataclass(frozen=True)
class ModelInfo:
    """The facts of a loaded model. Rates in hertz.

    Attributes:
        max_duration_seconds: of a generator, its window: the longest piece that it makes at once.
        modes: what a generator does beside text alone, by the words of ``MODES``.
        sampling: a generator's defaults, its seed aside.
        limit_seconds: what a server allows a generator that can pass its window.
        stride_seconds: a generator's default of how far one window of a longer piece is from the next.
    """

    name: str
    kind: str
    sample_rate_hz: int
    channel_count: int
    frame_rate_hz: float
    codebook_count: int
    codebook_size: int
    max_duration_seconds: float
    parameter_count: int
    digest: str
    device: str
    precision: str
    license: str
    modes: frozenset[str] = frozenset()
    sampling: Sampling = DEFAULT_SAMPLING
    stride_seconds: float = 0.0
    limit_seconds: float = 0.0

    @property
    def version(self) -> str:
        """Stands for the weights and the precision: what one version makes of a seed, another does not."""
        return f"{self.digest[:16]}-{self.precision}"

    @property
    def longest_seconds(self) -> float:
        """The longest piece that one request may ask for."""
        return max(self.max_duration_seconds, self.limit_seconds if "extension" in self.modes else 0.0)

    @property
    def window_frames(self) -> int:
        """Frames that a generator makes at once."""
        return int(self.max_duration_seconds * self.frame_rate_hz + 1e-6)

    @property
    def stride_frames(self) -> int:
        """A generator's default of how many frames one window of a longer piece is from the next; at least one."""
        return max(1, int(self.stride_seconds * self.frame_rate_hz + 1e-6))


@dataclass(frozen=True)
class LoadedCodec:
    """An AudioCraft ``CompressionModel`` in evaluation mode."""

    model: Any
    info: ModelInfo


@dataclass(frozen=True)
class LoadedGenerator:
    """An AudioCraft ``LMModel`` and its ``CompressionModel``, both in evaluation mode."""

    lm: Any
    codec: Any
    info: ModelInfo


def load_codec(name: str, device: str = "cpu") -> LoadedCodec:
    """Load the codec of a checkpoint, or a transformers EnCodec folder or id.

    Raises:
        UnknownModel: nothing of that name can be found.
        CheckpointError: it is found and can't be loaded.
    """
    folder = Path(name) if name and name not in EMBEDDED and is_transformers(name) else find(name, (CODEC_FILE,))
    model = _interleaved(_codec_of(folder, device), name, folder)
    files = [path for path in (folder / CODEC_FILE, folder / "model.safetensors") if path.exists()]
    return LoadedCodec(model, _info(name, "codec", model, 0.0, [model], files, device))


def _interleaved(codec: Any, name: str, folder: Path) -> Any:
    """Return the codec for two channels where the language model beside it takes their codebooks in turns."""
    from audiocraft.models.encodec import InterleaveStereoCompressionModel

    path = folder / LM_FILE
    if not path.is_file() and "stereo" in name and not Path(name).is_dir():
        # Only the language model's configuration says how a codec of one channel is used for two.
        path = find(name, (LM_FILE,)) / LM_FILE
    if not path.is_file() or int(codec.channels) != 1:
        return codec
    interleave = OmegaConf.select(config_of(read(path, mapped=True), path), "interleave_stereo_codebooks")
    if not interleave or not interleave.get("use"):
        return codec
    return InterleaveStereoCompressionModel(codec, per_timestep=bool(interleave.get("per_timestep", False))).eval()


def load_generator(name: str, device: str = "cpu") -> LoadedGenerator:
    """Load the language model and the codec of a checkpoint.

    Raises:
        UnknownModel: nothing of that name can be found.
        CheckpointError: it is found and can't be loaded.
    """
    from audiocraft.models import builders

    folder = find(name, (LM_FILE, CODEC_FILE))
    package = read(folder / LM_FILE)
    config = config_of(package, folder / LM_FILE)
    config.device, config.dtype = device, "float32"
    codec = _codec_of(folder, device)
    _complete(config, codec, folder)
    try:
        with separators(folder):
            lm = builders.get_lm_model(config)
        lm.load_state_dict(package["best_state"])
    except SeparatorError as error:
        raise CheckpointError(f"{folder / LM_FILE}: {error}") from error
    except Exception as error:
        raise CheckpointError(f"{folder / LM_FILE}: does not fit its own configuration: {error}") from error
    lm.cfg = config
    codec = builders.get_wrapped_compression_model(codec, config)
    lm.eval(), codec.eval()
    seconds = float(config.dataset.segment_duration)
    if magnet.is_magnet(config):
        seconds = magnet.fit_masks(lm, int(seconds * codec.frame_rate)) / codec.frame_rate
    for listener in (lm.condition_provider.conditioners[name] for name in lm.condition_provider.wav_conditions):
        listener.match_len_on_eval, listener._use_masking = True, False  # as MusicGen.get_pretrained
        steady(listener)
    kind = "sound" if OmegaConf.select(config, "solver") in SOUND_SOLVERS else "music"
    files = [folder / LM_FILE, folder / CODEC_FILE]
    info = _info(name, kind, codec, seconds, [lm, codec], files, device)
    return LoadedGenerator(lm, codec, dataclasses.replace(info, **_abilities(lm, config, kind, seconds)))


def _complete(config: DictConfig, codec: Any, folder: Path) -> None:
    """Write into a language model's configuration what loading it takes, and nothing that training took."""
    OmegaConf.set_struct(config, False)
    for path in (
        "conditioners.args.merge_text_conditions_p",
        "conditioners.args.drop_desc_p",
        "conditioners.self_wav.chroma_stem.cache_path",
        "conditioners.self_wav.chroma_stem.eval_wavs",
    ):
        parent, _, key = path.rpartition(".")
        if OmegaConf.select(config, path) is not None:
            del OmegaConf.select(config, parent)[key]
    if magnet.is_magnet(config):
        magnet.complete(config, codec.frame_rate)
    _place_text_encoders(config, folder)


def _abilities(lm: Any, config: DictConfig, kind: str, seconds: float) -> dict[str, Any]:
    masked = magnet.is_magnet(config)
    modes = {
        "continuation": True,
        "melody": MELODY in lm.condition_provider.conditioners,
        "extension": not masked,
        "mixing": TEXT in lm.fuser.fuse2cond["cross"],
        "stepwise": not masked,
    }
    stride = STRIDE_SECONDS[kind]
    return {
        "modes": frozenset(mode for mode in MODES if modes[mode]),
        "sampling": magnet.SAMPLING if masked else DEFAULT_SAMPLING,
        "stride_seconds": stride if stride < seconds else 0.6 * seconds,
    }


def _codec_of(folder: Path, device: str) -> Any:
    from audiocraft.models import builders
    from audiocraft.models.encodec import HFEncodecCompressionModel

    if is_transformers(str(folder)):
        return _transformers_codec(str(folder), device)
    package = read(folder / CODEC_FILE)
    if "pretrained" in package:
        name = str(package["pretrained"])
        if name.startswith("dac_"):
            return _dac(name, device)
        beside = folder / name
        if beside.is_dir() and not is_transformers(str(beside)):
            return _codec_of(beside, device)
        return _transformers_codec(str(beside) if beside.is_dir() else name, device)
    config = config_of(package, folder / CODEC_FILE)
    config.device = device
    try:
        model = builders.get_compression_model(config)
        model.load_state_dict(package["best_state"])
    except Exception as error:
        raise CheckpointError(f"{folder / CODEC_FILE}: does not fit its own configuration: {error}") from error
    assert not isinstance(model, HFEncodecCompressionModel)
    return model.to(device).eval()


def _dac(name: str, device: str) -> Any:
    """Return AudioCraft's wrapper of DAC, which runs on whole pieces only."""
    from audiocraft.models.encodec import CompressionModel

    try:
        return CompressionModel.get_pretrained(name, device=device).eval()
    except Exception as error:
        raise CheckpointError(
            f"{name}: can't be loaded: {error}; hint: AudioCraft runs DAC through the package descript-audio-codec, "
            "which is not among our requirements; docs/operations.md says how to add it"
        ) from error


def _transformers_codec(name: str, device: str) -> Any:
    from audiocraft.models.encodec import HFEncodecCompressionModel
    from transformers import EncodecModel

    try:
        model = EncodecModel.from_pretrained(name, use_safetensors=True)
    except Exception as error:
        raise CheckpointError(f"{name}: no EnCodec in safetensors can be loaded from it: {error}") from error
    return HFEncodecCompressionModel(model).to(device).eval()


def _place_text_encoders(config: DictConfig, folder: Path) -> None:
    """Let AudioCraft find a T5 that lies beside the checkpoint; it knows only the names of Google's."""
    from audiocraft.modules.conditioners import T5Conditioner
    from transformers import T5Config

    for conditioner in (config.get("conditioners") or {}).values():
        t5 = OmegaConf.select(conditioner, "t5") if isinstance(conditioner, DictConfig) else None
        if t5 is None or t5.name in T5Conditioner.MODELS_DIMS:
            continue
        beside = folder / str(t5.name)
        if not beside.is_dir():
            raise CheckpointError(f"{LM_FILE}: its text encoder {t5.name!r} is neither known nor beside it")
        t5.name = str(beside)
        if t5.name not in T5Conditioner.MODELS:
            T5Conditioner.MODELS.append(t5.name)
            T5Conditioner.MODELS_DIMS[t5.name] = T5Config.from_pretrained(beside).d_model


def _info(
    name: str, kind: str, codec: Any, seconds: float, modules: list[Any], files: list[Path], device: str
) -> ModelInfo:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return ModelInfo(
        name=name,
        kind=kind,
        sample_rate_hz=int(codec.sample_rate),
        channel_count=int(codec.channels),
        frame_rate_hz=float(codec.frame_rate),
        codebook_count=_codebooks(codec) if kind == "codec" else int(codec.num_codebooks),
        codebook_size=int(codec.cardinality),
        max_duration_seconds=seconds,
        parameter_count=sum(p.numel() for module in modules for p in module.parameters()),
        digest=digest.hexdigest(),
        device=device,
        precision="fp32",
        license=LICENSES.get(name, "CC-BY-NC-4.0" if name.startswith("facebook/") else ""),
    )


def _codebooks(codec: Any) -> int:
    """Return all that a codec can use. AudioCraft's stereo wrapper tells of one channel's."""
    channels = int(codec.channels) if hasattr(codec, "get_left_right_codes") and not codec.per_timestep else 1
    return int(codec.total_codebooks) * channels
