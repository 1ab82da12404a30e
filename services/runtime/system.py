"""What a service says of itself, for the edge to join with what the others say."""
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from antiphon.v1 import analyzer_pb2, audio_pb2, system_pb2, system_pb2_grpc
from services.runtime.metrics import version

SYSTEM_SERVICE: str = system_pb2.DESCRIPTOR.services_by_name["SystemService"].full_name

_FAMILIES = tuple(
    name.removeprefix("DISCRIMINATOR_").lower()
    for name, number in analyzer_pb2.Discriminator.items()
    if number != analyzer_pb2.DISCRIMINATOR_UNSPECIFIED
)
"""Every analyzer has all three."""


class SystemServicer(system_pb2_grpc.SystemServiceServicer):
    """SystemService of one service.

    Args:
        models: lists what is loaded; called once the service serves.
    """

    def __init__(self, models: Callable[[], Sequence[audio_pb2.ModelInfo]]) -> None:
        self._models = models

    async def GetHealth(self, request: system_pb2.GetHealthRequest, context: Any) -> system_pb2.GetHealthResponse:
        models = self._models()
        is_analyzer = any(model.kind == audio_pb2.MODEL_KIND_ANALYZER for model in models)
        return system_pb2.GetHealthResponse(
            status="healthy",
            version=version(),
            models=[model.name for model in models],
            discriminators=_FAMILIES if is_analyzer else (),
        )

    async def ListModels(
        self, request: system_pb2.SystemServiceListModelsRequest, context: Any
    ) -> system_pb2.SystemServiceListModelsResponse:
        return system_pb2.SystemServiceListModelsResponse(models=self._models())
