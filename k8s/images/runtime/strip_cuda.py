"""Takes CUDA out of an installed PyTorch: `python strip_cuda.py SITE_PACKAGES`.

PyPI has PyTorch for Linux only with CUDA: 3 GB of libraries that a CPU never calls, but that the loader wants to find.
What is removed here leaves small libraries of the same names in its place, with just the symbols that the rest of
PyTorch refers to. Whoever calls one is ended by an illegal instruction; nobody does, because CUDA's own runtime stays
(0.7 MB) and says that there is no device. The few that are called while packages are imported have an answer.

Needs binutils and a C compiler, and is run while an image is built. A CPU build of PyTorch has none of these libraries
and needs no stand-ins: then only what lies beside it goes. torchaudio's compiled part goes too, since it is linked to
CUDA's; torchaudio does without it, and we use none of it. xformers' would not load here in any case.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPLACED = {
    "torch/lib/libtorch_cuda.so": (
        "torch/lib/libtorch_cuda.so",
        "torch/lib/libtorch_cuda_linalg.so",
        "torch/lib/libtorch_nvshmem.so",
    ),
    "torch/lib/libcupti.so.13": ("nvidia/cu13/lib/libcupti.so.13",),
    "torch/lib/libcudnn.so.9": ("nvidia/cudnn/lib/libcudnn.so.9",),
    "torch/lib/libcufile.so.0": ("nvidia/cu13/lib/libcufile.so.0",),
}
"""Where the loader will look → the libraries whose symbols it will look for there."""
KEPT = "nvidia/cu13/lib/libcudart.so.13"
REMOVED = (*REPLACED["torch/lib/libtorch_cuda.so"], "torch/lib/libcaffe2_nvrtc.so")
SYSTEM = ("libstdc++.so.6", "libc.so.6", "libm.so.6", "libgcc_s.so.1")
PACKAGES = ("nvidia*", "triton", "triton-*", "cuda", "cuda_*", "cuda-*")
REFERENCES = {"_ZN4c10d15get_gil_checkerEv"}
"""Functions that PyTorch calls while it is imported: each returns a reference to a variable, which it then sets."""
NEGATIVES = {"_ZN3sdp28is_flash_attention_availableEv"}
"""Questions that xformers asks while it is imported: the answer is no."""
DATA = set("BbDdGgRrSsVv")
"""What nm calls symbols that are not functions."""


def main() -> None:
    site = Path(sys.argv[1])
    before = size(site)
    if (site / KEPT).exists() and (site / REMOVED[0]).exists():
        replace(site)
    for pattern in PACKAGES:
        for path in site.glob(pattern):
            shutil.rmtree(path)
    for path in [*(site / "torchaudio" / "lib").glob("*.so"), *(site / "xformers").rglob("*.so")]:
        path.unlink()
    print(f"{site}: {before >> 20} MiB before, {size(site) >> 20} MiB now")


def replace(site: Path) -> None:
    """Put the stand-ins in the place of PyTorch's own CUDA libraries."""
    users = [path for path in (site / "torch" / "lib").glob("*.so*") if str(path.relative_to(site)) not in REMOVED]
    # Name → the version that the loader will ask for, or "".
    wanted = dict(split(name) for path in users for _, name in symbols(path, "--undefined-only"))
    # C++ puts its templates wherever they are used, also into what is removed: those that stay are found elsewhere.
    for path in [*users, *map(system, SYSTEM)]:
        for _, name in symbols(path, "--defined-only"):
            wanted.pop(split(name)[0], None)
    with tempfile.TemporaryDirectory() as folder:
        stubs = {}
        for place, libraries in REPLACED.items():
            provided = {
                split(name)[0]: kind for path in libraries for kind, name in symbols(site / path, "--defined-only")
            }
            needed = {name: (kind, wanted[name]) for name, kind in provided.items() if name in wanted}
            stubs[place] = stub(Path(folder, Path(place).name), needed)
        kept = Path(shutil.copy(site / KEPT, folder))
        for library in REMOVED:
            (site / library).unlink()
        for place, library in stubs.items():
            shutil.copy(library, site / place)
        shutil.copy(kept, site / "torch" / "lib")


def symbols(library: Path, which: str) -> list[tuple[str, str]]:
    """Return the kind and the name of each dynamic symbol."""
    lines = subprocess.run(["nm", "-D", which, str(library)], check=True, capture_output=True, text=True).stdout
    return [(fields[-2], fields[-1]) for line in lines.splitlines() if len(fields := line.split()) >= 2]


def system(library: str) -> Path:
    """Return the path of a library of the C and C++ runtime."""
    found = subprocess.run(["cc", f"-print-file-name={library}"], check=True, capture_output=True, text=True).stdout
    return Path(found.strip())


def split(symbol: str) -> tuple[str, str]:
    """Split "name@VERSION" or "name@@VERSION"."""
    name, _, version = symbol.partition("@")
    return name, version.removeprefix("@")


def stub(library: Path, needed: dict[str, tuple[str, str]]) -> Path:
    """Compile a library of a name with some symbols: functions that end the process, and zeros for data.

    Args:
        needed: name → what nm calls its kind, and its version or "".
    """
    lines = []
    for name, (kind, _) in sorted(needed.items()):
        if name.startswith("_ZTI"):
            # A type's name is asked for where Python's classes are made.
            lines += ['.section .data.rel,"aw"', ".balign 16", f".globl {name}", f".type {name}, @object"]
            lines += [f"{name}: .quad _ZTVN10__cxxabiv117__class_type_infoE+16, {name}.name", f".size {name}, 16"]
            lines += [f'{name}.name: .string "{name.removeprefix("_ZTI")}"']
        elif kind in DATA:
            lines += [".data", ".balign 16", f".globl {name}", f".type {name}, @object", f".size {name}, 256"]
            lines += [f"{name}: .zero 256"]
        else:
            body = "lea variable(%rip), %rax; ret" if name in REFERENCES else "ud2"
            body = "xor %eax, %eax; ret" if name in NEGATIVES else body
            lines += [".text", f".globl {name}", f".type {name}, @function", f"{name}: {body}"]
    source = library.with_name(f"{library.name}.s")
    lines += [".local variable", ".comm variable, 64, 16"]
    source.write_text("\n".join([*lines, '.section .note.GNU-stack,"",@progbits', ""]))
    command = ["cc", "-shared", "-nostdlib", f"-Wl,-soname,{library.name}", "-o", str(library), str(source)]
    versions = sorted({version for _, version in needed.values() if version})
    if versions:
        script = library.with_name(f"{library.name}.map")
        names = {
            version: " ".join(f"{name};" for name, (_, own) in needed.items() if own == version) for version in versions
        }
        script.write_text("\n".join(f"{version} {{ global: {names[version]} }};" for version in versions))
        command.append(f"-Wl,--version-script={script}")
    subprocess.run(command, check=True)
    return library


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
