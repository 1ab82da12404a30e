"""The generator as the runtime sees it."""

from __future__ import annotations

import logging

import grpc
import torch

from antiphon.v1 import generator_pb2, generator_pb2_grpc
from services.generator.engine import GeneratorEngine
from services.generator.residents import Model, Residents
from services.generator.scheduler import Scheduler
from services.generator.servicer import GeneratorServicer
from services.generator.settings import GeneratorSettings
from services.models.loader import load_generator

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

    def load(self) -> None:
        if self._device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._models.open(self._settings.models)

    def register(self, server: grpc.aio.Server) -> None:
        generator_pb2_grpc.add_GeneratorServiceServicer_to_server(GeneratorServicer(self._models), server)

    def close(self) -> None:
        self._models.close()

    def _load(self, name: str) -> Model:
        loaded, settings = load_generator(name, self._device), self._settings
        self._largest = max(self._largest, loaded.info.parameter_count)
        own = 1 if self._largest < SMALL_MODEL_PARAMETERS else self._default_threads
        torch.set_num_threads(settings.threads or own)
        engine = GeneratorEngine(loaded)
        engine.warm()
        info = engine.info
        scheduler = Scheduler(engine, info.name, info.sample_rate_hz, settings.slots, settings.queue_limit)
        scheduler.start()
        facts = {
            "model": info.name,
            "parameters": info.parameter_count,
            "device": self._device,
            "precision": info.precision,
        }
        _log.info("model loaded", extra=facts)
        return Model(info, engine, scheduler)
