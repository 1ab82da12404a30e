"""The models of a service: which of them are in memory, within a budget."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.generator.engine import GeneratorEngine
from services.generator.plain import PlainEngine
from services.generator.scheduler import Scheduler
from services.models.loader import ModelInfo
from services.runtime.errors import ResourceExhausted, Unavailable
from services.runtime.metrics import METRICS, Metrics

_log = logging.getLogger("antiphon.generator")


@dataclass(frozen=True)
class Model:
    """A loaded model and who runs it."""

    info: ModelInfo
    engine: GeneratorEngine | PlainEngine
    scheduler: Scheduler


@dataclass
class _Place:
    """What is known of a model, in memory or not."""

    info: ModelInfo
    lookahead_seconds: float
    samples_per_frame: int
    weight_bytes: int
    model: Model | None
    users: int = 0
    arriving: asyncio.Task[None] | None = None
    used: float = field(default_factory=time.monotonic)


class Residents:
    """Models by name, the default first. Those that were used least recently leave for those that are asked for.

    Args:
        load: makes a model by its name; blocks.
        budget_bytes: what the weights of the models in memory may take together; 0 for no limit.
    """

    def __init__(self, load: Callable[[str], Model], budget_bytes: int = 0, metrics: Metrics = METRICS) -> None:
        self._load = load
        self._budget_bytes = budget_bytes
        self._metrics = metrics
        self._places: dict[str, _Place] = {}
        self._loading = asyncio.Lock()
        self._closed = False

    @property
    def infos(self) -> Mapping[str, ModelInfo]:
        """The models by name, in memory or not."""
        return {name: place.info for name, place in self._places.items()}

    def lookahead_seconds(self, name: str) -> float:
        """Return how far a model's audio lags behind its codes."""
        return self._places[name].lookahead_seconds

    def samples_per_frame(self, name: str) -> int:
        """Return how many samples a frame of a model's codes stands for."""
        return self._places[name].samples_per_frame

    def open(self, names: Sequence[str]) -> None:
        """Load every model once, to know it and to fail early; keep those that the budget allows.

        Raises:
            CheckpointError: one can't be loaded.
            ValueError: one is larger than the budget.
        """
        for name in dict.fromkeys(names):
            model = self._load(name)
            place = _Place(
                model.info,
                model.engine.lookahead_seconds,
                model.engine.samples_per_frame,
                model.engine.weight_bytes,
                model,
            )
            if self._budget_bytes and place.weight_bytes > self._budget_bytes:
                model.scheduler.close()
                raise ValueError(
                    f"{name}: its weights take {place.weight_bytes} bytes; "
                    f"hint: ANTIPHON_MEMORY_BUDGET_BYTES is {self._budget_bytes}"
                )
            self._places[model.info.name] = place
            if self._budget_bytes and self._resident_bytes > self._budget_bytes:
                del model
                _unload([self._take_out(place)])
            else:
                self._note(place)

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Model]:
        """Give a model, loaded if need be, that stays in memory meanwhile.

        Whoever asks for a model that is on its way waits for it, and shares its failure; the next to ask tries again.

        Raises:
            ResourceExhausted: it is not in memory, and those that are run too many requests to leave.
            Unavailable: the service is going down.
            Exception: whatever its loading raised.
        """
        place = self._places[name]
        # Counted before it is there: it must not leave again between its loading and its use.
        place.users += 1
        try:
            if place.model is None:
                if place.arriving is None:
                    place.arriving = asyncio.create_task(self._arrive(name, place))
                # A thread can't be cancelled: a caller that leaves must neither lose the model that it makes, nor let
                # another load begin beside it.
                await asyncio.shield(place.arriving)
            model = place.model
            assert model is not None
            yield model
        finally:
            place.users -= 1
            place.used = time.monotonic()

    def close(self) -> None:
        """End all that run; what is being loaded ends when it is there."""
        self._closed = True
        for place in self._places.values():
            if place.model is not None:
                place.model.scheduler.close()

    @property
    def _resident_bytes(self) -> int:
        return sum(place.weight_bytes for place in self._places.values() if place.model is not None)

    async def _arrive(self, name: str, place: _Place) -> None:
        try:
            async with self._loading:
                # Others leave for a model only while somebody still waits for it.
                if place.users:
                    await self._bring(name, place)
        finally:
            place.arriving = None

    async def _bring(self, name: str, place: _Place) -> None:
        while self._resident_bytes + place.weight_bytes > self._budget_bytes:
            idle = [other for other in self._places.values() if other.model is not None and not other.users]
            if not idle:
                busy = [other.model.scheduler for other in self._places.values() if other.model is not None]
                seconds = min((scheduler.retry_seconds() for scheduler in busy), default=1.0)
                raise ResourceExhausted(f"{name} is not in memory, and the models there are in use", seconds)
            # Out of its place before anything is awaited: nobody may take it on its way out.
            leaving = [self._take_out(min(idle, key=lambda other: other.used))]
            await asyncio.to_thread(_unload, leaving)
        model = await asyncio.to_thread(self._load, name)
        if self._closed:
            await asyncio.to_thread(model.scheduler.close)
            raise Unavailable("the service is going down")
        place.model = model
        self._note(place)

    def _take_out(self, place: _Place) -> Model:
        model, place.model = place.model, None
        assert model is not None
        self._note(place)
        return model

    def _note(self, place: _Place) -> None:
        resident = place.model is not None
        self._metrics.model_resident.labels(place.info.name).set(resident)
        _log.info("model in memory" if resident else "model out of memory", extra={"model": place.info.name})


def _unload(leaving: list[Model]) -> None:
    """End a model, in a list whose only reference to it is given up here, and give back what it held."""
    import torch

    leaving.pop().scheduler.close()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
