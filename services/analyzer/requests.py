"""What the analyzer's messages ask for, checked, as plain values."""

from __future__ import annotations

import dataclasses

from antiphon.v1 import analyzer_pb2
from services.models.discriminators import AnalyzerInfo
from services.runtime.errors import InvalidArgument, NotFound, Unimplemented

_DEFAULT_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class Analysis:
    """One call of Analyze."""

    audio: bytes
    threshold: float
    include_feature_maps: bool


def analysis(request: analyzer_pb2.AnalyzeRequest, model: AnalyzerInfo) -> Analysis:
    """Check an AnalyzeRequest. Raises InvalidArgument, NotFound, Unimplemented."""
    if request.model not in ("", model.name):
        raise NotFound("model", f"{request.model!r} is not loaded; loaded: {model.name}")
    threshold = request.threshold if request.HasField("threshold") else _DEFAULT_THRESHOLD
    # A NaN is not between them.
    if not 0 <= threshold <= 1:
        raise InvalidArgument("threshold", f"{threshold:g} is not 0 to 1")
    if request.include_images:
        raise Unimplemented("include_images", "pictures are not made")
    return Analysis(request.audio.data, threshold, request.include_feature_maps)
