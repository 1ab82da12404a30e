"""The generator as the runtime sees it."""

from __future__ import annotations

import logging

import grpc
import torch

from antiphon.v1 import generator_pb2, generator_pb2_grpc
from services.generator.engine import GeneratorEngine
from services.generator.scheduler import Scheduler
from services.generator.servicer import GeneratorServicer, Model
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
        self._models: dict[str, Model] = {}

    def load(self) -> None:
        settings = self._settings
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = [load_generator(name, device) for name in settings.models]
        largest = max(model.info.parameter_count for model in loaded)
        if settings.threads or largest < SMALL_MODEL_PARAMETERS:
            torch.set_num_threads(settings.threads or 1)
        for model in loaded:
            engine = GeneratorEngine(model)
            engine.warm()
            info = model.info
            scheduler = Scheduler(engine, info.name, info.sample_rate_hz, settings.slots, settings.queue_limit)
            self._models[info.name] = Model(info, engine, scheduler)
            facts = {
                "model": info.name,
                "parameters": info.parameter_count,
                "device": device,
                "precision": info.precision,
            }
            _log.info("model loaded", extra=facts)

    def register(self, server: grpc.aio.Server) -> None:
        generator_pb2_grpc.add_GeneratorServiceServicer_to_server(GeneratorServicer(self._models), server)

    def close(self) -> None:
        for model in self._models.values():
            model.scheduler.close()
