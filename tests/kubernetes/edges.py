"""The edge's configurations in Kubernetes, which are laid together from parts as kustomize can't.

envoy.yaml + watch.yaml                 made/edge.yaml      the base
envoy.yaml + watch.yaml + secured.yaml  made/secured.yaml   the component mtls
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import yaml

from services.stack.overlay import merge

FOLDER = Path(__file__).parents[2] / "k8s" / "base" / "envoy"
PARTS = {
    "edge.yaml": ("envoy.yaml", "watch.yaml"),
    "secured.yaml": ("envoy.yaml", "watch.yaml", "secured.yaml"),
}
MADE = FOLDER / "made"


def texts() -> dict[str, str]:
    """Return what the files in made/ should hold, by their names."""
    made = {}
    for name, parts in PARTS.items():
        document = reduce(merge, (yaml.safe_load((FOLDER / part).read_text()) for part in parts))
        first = f"# Made from {', '.join(parts)} by `python -m tests.kubernetes envoy`: change those.\n"
        made[name] = first + yaml.dump(document, Dumper=_Plain, sort_keys=False, width=120)
    return made


def write() -> list[Path]:
    """Write the files in made/ and return those that have changed."""
    MADE.mkdir(exist_ok=True)
    changed = []
    for name, text in texts().items():
        path = MADE / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed.append(path)
    return changed


class _Plain(yaml.SafeDumper):
    """Without anchors: what is shared in a part may differ once it is laid over."""

    def ignore_aliases(self, data: object) -> bool:
        return True
