"""The HorizontalPodAutoscaler's algorithm, with the constants of Kubernetes and the behaviours of our manifests.

Kubernetes, "Horizontal Pod Autoscaling": the desired replicas are those at which the mean would be the target; pods
that are not ready count as zero when it would go up; nothing is done within a tolerance of 10 %; of several metrics the
largest wish counts; then the stabilisation windows and the policies of `behavior`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SYNC_SECONDS = 15.0
TOLERANCE = 0.1
MANIFEST = Path(__file__).parents[3] / "k8s" / "components" / "autoscaling" / "generator.yaml"


def quantity(text: str | int) -> float:
    """Return the number that Kubernetes writes as "750m" or "1"."""
    text = str(text)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


@dataclass
class Autoscaler:
    """Decides replicas. Times in seconds; the state is what one autoscaler remembers."""

    targets: Mapping[str, float]
    minimum: int
    maximum: int
    up: Mapping[str, Any]
    down: Mapping[str, Any]
    _wishes: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: deque[tuple[float, int]] = field(default_factory=deque)

    @classmethod
    def from_manifest(cls, path: Path = MANIFEST, maximum: int | None = None) -> Autoscaler:
        """Return the autoscaler of a manifest of ours; `maximum` in place of its own."""
        spec = yaml.safe_load(path.read_text())["spec"]
        targets = {
            each["pods"]["metric"]["name"]: quantity(each["pods"]["target"]["averageValue"]) for each in spec["metrics"]
        }
        behavior = spec["behavior"]
        limit = maximum or spec["maxReplicas"]
        return cls(targets, spec["minReplicas"], limit, behavior["scaleUp"], behavior["scaleDown"])

    def decide(self, now: float, replicas: int, metrics: Mapping[str, Sequence[float]]) -> int:
        """Return the replicas wanted now.

        Args:
            replicas: those that there are, ready or not.
            metrics: of each metric, the values of the ready pods.
        """
        wish = max((self._wish(replicas, metrics[name], target) for name, target in self.targets.items()), default=1)
        wish = min(max(wish, self.minimum), self.maximum)
        self._wishes.append((now, wish))
        decided = self._limited(now, replicas, self._stabilised(now, replicas, wish))
        if decided != replicas:
            self._changes.append((now, decided - replicas))
        return decided

    @staticmethod
    def _wish(replicas: int, values: Sequence[float], target: float) -> int:
        if not values:
            return replicas
        ratio = sum(values) / len(values) / target
        if abs(ratio - 1) <= TOLERANCE:
            return replicas
        if ratio > 1 and len(values) < replicas:
            # Those that are coming count as idle: they were asked for already.
            ratio = sum(values) / replicas / target
            if ratio <= 1 + TOLERANCE:
                return replicas
            return math.ceil(ratio * replicas)
        return math.ceil(ratio * len(values))

    def _stabilised(self, now: float, replicas: int, wish: int) -> int:
        window = max(self.up.get("stabilizationWindowSeconds", 0), self.down.get("stabilizationWindowSeconds", 300))
        while self._wishes and self._wishes[0][0] < now - window:
            self._wishes.popleft()
        lowest = min(self._since(now, self.up.get("stabilizationWindowSeconds", 0)), default=wish)
        highest = max(self._since(now, self.down.get("stabilizationWindowSeconds", 300)), default=wish)
        if replicas < lowest:
            return lowest
        return highest if replicas > highest else replicas

    def _since(self, now: float, seconds: float) -> list[int]:
        return [wish for time, wish in self._wishes if time >= now - seconds]

    def _limited(self, now: float, replicas: int, wanted: int) -> int:
        if wanted > replicas:
            limits = [self._limit(now, replicas, policy, 1) for policy in self.up["policies"]]
            return min(wanted, max(limits) if self.up.get("selectPolicy", "Max") == "Max" else min(limits))
        if wanted < replicas:
            limits = [self._limit(now, replicas, policy, -1) for policy in self.down["policies"]]
            # The policy that changes most allows the fewest replicas.
            return max(wanted, min(limits) if self.down.get("selectPolicy", "Max") == "Max" else max(limits))
        return replicas

    def _limit(self, now: float, replicas: int, policy: Mapping[str, Any], sign: int) -> int:
        recent = [change for time, change in self._changes if time > now - policy["periodSeconds"]]
        start = replicas - sum(change for change in recent if change * sign > 0)
        if policy["type"] == "Pods":
            return start + sign * int(policy["value"])
        share = start * (1 + sign * policy["value"] / 100)
        return math.ceil(share) if sign > 0 else int(share)
