"""`python -m services.edge DESCRIPTORS FOLDER PAGE`: write what Envoy serves REST by, and the API reference.

A step of `make protos`. DESCRIPTORS is what protoc wrote with --include_imports and --include_source_info. FOLDER gets
`antiphon.pb`, the same without comments, for Envoy's transcoder, and `openapi.json`; PAGE is the reference.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

from google.protobuf import descriptor_pb2

from services.edge.openapi import document
from services.edge.reference import reference

ROOT = Path(__file__).parents[2]


def stripped(files: descriptor_pb2.FileDescriptorSet) -> bytes:
    """Return a set without comments, the same bytes for the same protos."""
    bare = descriptor_pb2.FileDescriptorSet()
    for file in files.file:
        bare.file.add().CopyFrom(file)
        bare.file[-1].ClearField("source_code_info")
    return bytes(bare.SerializeToString(deterministic=True))


def version() -> str:
    """Return the project's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def main(arguments: list[str]) -> int:
    """Write all three files."""
    descriptors, folder, page = map(Path, arguments)
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    (folder / "antiphon.pb").write_bytes(stripped(files))
    text = json.dumps(document(files, version()), indent=1, ensure_ascii=False)
    (folder / "openapi.json").write_text(text + "\n", encoding="utf-8")
    page.write_text(reference(files), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
