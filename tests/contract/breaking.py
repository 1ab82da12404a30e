"""`buf breaking` of protos/ against what callers already have. Run by `make protos-check`; needs no network.

What callers have is, in this order:

1. the last tag ``v*`` in HEAD's history: the contract of the last release;
2. on a branch, where it left main (main or origin/main): what the branch would break by being merged;
3. on main, HEAD when protos/ has uncommitted changes, else HEAD's parent.

With none of these (the first commit, a clone of depth 1, no git at all) there is nothing to compare to: that is
said, and no failure. The rule set is protos/buf.yaml's (WIRE_JSON), the one of today for both sides.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
CURRENT = ROOT / ".cache" / "buf"
BUF = Path(sys.executable).with_name("buf")


def _git(*arguments: str) -> str | None:
    """Return what git prints, or nothing where it fails: a missing ref or history is no error here."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def baseline() -> tuple[str, str] | None:
    """Return the commit to compare to and what it is, in words; nothing when there is none."""
    head = _git("rev-parse", "--verify", "--quiet", "HEAD")
    if head is None:
        return None
    if tag := _git("describe", "--tags", "--abbrev=0", "--match", "v*"):
        return tag, f"the release {tag}"
    for main in ("main", "origin/main"):
        base = _git("merge-base", main, "HEAD")
        if base and base != head:
            return base, f"{base[:10]}, where this branch left {main}"
    if _git("status", "--porcelain", "--", "protos"):
        return head, f"{head[:10]}, the last commit"
    parent = _git("rev-parse", "--verify", "--quiet", "HEAD~1")
    return (parent, f"{parent[:10]}, the commit before") if parent else None


def unpack(commit: str, folder: Path) -> bool:
    """Write protos/ of a commit into the folder, with today's third-party protos; False when it had no protos/."""
    if _git("rev-parse", "--verify", "--quiet", f"{commit}:protos") is None:
        return False
    archive = subprocess.run(["git", "archive", f"{commit}:protos"], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    shutil.copy(CURRENT / "buf.yaml", folder / "buf.yaml")
    shutil.copytree(CURRENT / "third_party", folder / "third_party", dirs_exist_ok=True)
    return True


def main() -> int:
    if not (CURRENT / "third_party").is_dir():
        print(f"{CURRENT.relative_to(ROOT)}: missing; hint: run make protos-check", file=sys.stderr)
        return 2
    found = baseline()
    if found is None:
        print("protos: nothing to compare to: no release, no main and no earlier commit in this clone")
        return 0
    commit, words = found
    with tempfile.TemporaryDirectory() as folder:
        if not unpack(commit, Path(folder)):
            print(f"protos: nothing to compare to: {words} has no protos")
            return 0
        done = subprocess.run([BUF, "breaking", CURRENT, "--against", folder], cwd=ROOT, check=False)
    print(f"protos: {'no break' if done.returncode == 0 else 'BROKEN'} against {words}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
