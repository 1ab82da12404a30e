"""The generator as the runtime sees it."""

from __future__ import annotations

import dataclasses
import logging

import grpc
import torch

from antiphon.v1 import audio_pb2, generator_pb2, generator_pb2_grpc
from services.generator.engine import GeneratorEngine
from services.generator.plain import PlainEngine
from services.generator.prompts import PromptLimits
from services.generator.residents import Model, Residents
from services.generator.scheduler import Scheduler
from services.generator.servicer import GeneratorServicer
from services.generator.settings import GeneratorSettings
from services.models.codecs import UnsupportedCodec
from services.models.execution import Precision, release
from services.models.executor import UnsupportedModel
from services.models.loader import LoadedGenerator, load_generator

_log = logging.getLogger("antiphon.generator")
SMALL_MODEL_PARAMETERS = 20_000_000
"""Below this a step's matrices are too small to split: a second thread costs more than it gives."""


class GeneratorService:
    """Loads the models of the settings and serves them."""

    name: str = generator_pb2.DESCRIPTOR.services_by_name["GeneratorService"].full_name

    def __init__(self, settings: GeneratorSettings) -> None:
        self._settings = settings
        self._device = settings.device
        self._default_threads = torch.get_num_threads()
        self._largest = 0
        self._models = Residents(self._load, settings.memory_budget_bytes)
        limits = PromptLimits(settings.max_prompt_audio_bytes, settings.max_prompt_audio_seconds)
        self._servicer = GeneratorServicer(self._models, limits)

    def load(self) -> None:
        if self._device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._models.open(self._settings.models)

    def register(self, server: grpc.aio.Server) -> None:
        generator_pb2_grpc.add_GeneratorServiceServicer_to_server(self._servicer, server)

    def models(self) -> list[audio_pb2.ModelInfo]:
        return self._servicer.models()

    def close(self) -> None:
        self._models.close()

    def _load(self, name: str) -> Model:
        loaded, settings = load_generator(name, self._device), self._settings
        self._largest = max(self._largest, loaded.info.parameter_count)
        own = 1 if self._largest < SMALL_MODEL_PARAMETERS else self._default_threads
        torch.set_num_threads(settings.threads or own)
        engine = _engine(loaded, settings.precision)
        engine.warm()
        info = dataclasses.replace(engine.info, limit_seconds=settings.max_duration_seconds)
        slots = 1 if isinstance(engine, PlainEngine) else settings.slots
        scheduler = Scheduler(engine, info.name, info.sample_rate_hz, slots, settings.queue_limit)
        scheduler.start()
        facts = {
            "model": info.name,
            "parameters": info.parameter_count,
            "device": self._device,
            "precision": info.precision,
        }
        _log.info("model loaded", extra=facts)
        return Model(info, engine, scheduler)


def _engine(loaded: LoadedGenerator, precision: Precision) -> GeneratorEngine | PlainEngine:
    try:
        engine = GeneratorEngine(loaded, precision)
    except (UnsupportedModel, UnsupportedCodec) as error:
        _log.warning("runs in AudioCraft's own loop", extra={"model": loaded.info.name, "reason": str(error)})
        return PlainEngine(loaded)
    release(loaded.lm)
    return engine
