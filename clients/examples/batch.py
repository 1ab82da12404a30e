"""Batch generation: every line of a CSV becomes a file.

    python clients/examples/batch.py clients/examples/pieces.csv --out out/batch

The columns are file, prompt, seconds and seed; an empty seed is drawn by the server. Several pieces go in one call, and
the server makes them together. Files that are there already are left alone, so an interrupted run goes on where it was.
A server that is full is asked again when it says. made.csv tells what became of each line, seeds included.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import antiphon

DEFAULT_WAIT_SECONDS = 5.0


def wanted(row: dict[str, str], seconds: float | None) -> antiphon.GenerationRequest:
    """Returns what a line asks for."""
    piece: antiphon.GenerationRequest = {"prompt": row["prompt"], "duration": seconds or float(row["seconds"])}
    if row["seed"]:
        piece["seed"] = int(row["seed"])
    return piece


def together(
    client: antiphon.Client, pieces: list[antiphon.GenerationRequest], tries: int = 10
) -> list[antiphon.GeneratedAudio]:
    """Makes several pieces in one call; waits as long as a full server says."""
    for left in reversed(range(tries)):
        try:
            return client.generate_batch(pieces)
        except antiphon.ResourceExhaustedError as error:
            if not left:
                raise
            wait = error.retry_after_seconds or DEFAULT_WAIT_SECONDS
            print(f"the server is full; again in {wait:.0f} s")
            time.sleep(wait)
    raise AssertionError


def groups(rows: list[dict[str, str]], size: int) -> Iterator[list[dict[str, str]]]:
    """Yields so many lines at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV with the columns file, prompt, seconds, seed")
    parser.add_argument("--target", help="host:port; default: ANTIPHON_TARGET, else localhost:8080")
    parser.add_argument("--out", type=Path, default=Path("out/batch"), help="folder for the files")
    parser.add_argument("--seconds", type=float, help="length of every piece, in place of the column")
    parser.add_argument("--together", type=int, default=4, help="pieces in a call")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with options.table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    missing = [row for row in rows if not (options.out / row["file"]).exists()]
    print(f"{len(rows)} lines, {len(missing)} to make")
    begun = time.perf_counter()
    total = 0.0
    table = options.out / "made.csv"
    is_new = not table.exists()
    with antiphon.Client(options.target) as client, table.open("a", newline="", encoding="utf-8") as file:
        made = csv.writer(file)
        if is_new:
            made.writerow(["file", "prompt", "seconds", "seed", "model"])
        for rows in groups(missing, options.together):
            pieces = together(client, [wanted(row, options.seconds) for row in rows])
            for row, piece in zip(rows, pieces, strict=True):
                piece.save(options.out / row["file"])
                seconds = piece.duration_seconds
                made.writerow([row["file"], row["prompt"], f"{seconds:.2f}", piece.seed, piece.started.model])
                print(f"{row['file']}: {seconds:.1f} s, seed {piece.seed}")
                total += seconds
    took = time.perf_counter() - begun
    print(f"{total:.1f} s of audio in {options.out}; took {took:.1f} s")


if __name__ == "__main__":
    main()
