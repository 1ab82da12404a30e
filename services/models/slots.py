"""Static memory for the streams of a language model: one arena, a slot a row, and the shapes that steps are cut into.

A step of a graph, captured or not, has a fixed shape. So rows and lengths are rounded up to a few sizes, and a step
of single tokens runs over the lowest slots as they lie, idle ones included, which reads the cache where it is;
anything else (prefill, few live rows among many slots) gathers the slots that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from services.models.weights import Weights


def round_rows(count: int) -> int:
    """Return the number of rows that a step of ``count`` rows is padded to.

    A multiple of four, where the CPU's matrix product gives a row the same bits whatever the others hold.
    """
    step = 4 if count <= 16 else 8 if count <= 64 else 32
    return -(-count // step) * step


def round_length(count: int) -> int:
    """Return how many positions are read for ``count`` live ones: a multiple of 64, the coarser the longer."""
    step = 64 if count <= 256 else 128 if count <= 1024 else 256
    return -(-count // step) * step


def round_source(count: int) -> int:
    """Return how many tokens of a source are read for ``count``: 32, or the next power of two."""
    return max(32, 1 << (count - 1).bit_length())


@dataclass(frozen=True)
class Lanes:
    """The layout of one call: what stands in each lane, padded.

    Attributes:
        slots, positions: of each lane.
        places: the lane of each row that was asked for.
        length: positions to read.
        dense: lane ``i`` is slot ``i``, so the cache is read in place.
    """

    slots: list[int]
    positions: list[int]
    places: list[int]
    length: int
    dense: bool


def arrange(slots: Sequence[int], positions: Sequence[int], scratch: int) -> Lanes:
    """Lay out rows, each a slot and the position that it writes; lanes without a row write to ``scratch``.

    Reading in place is worth idle lanes, up to as many as there are others.
    """
    count, length = round_rows(len(slots)), round_length(max(positions) + 1)
    reach = round_rows(max(slots) + 1)
    if len(set(slots)) == len(slots) and reach <= 2 * count:
        lanes = [scratch] * reach
        for slot, position in zip(slots, positions, strict=True):
            lanes[slot] = position
        return Lanes(list(range(reach)), lanes, list(slots), length, dense=True)
    padding = count - len(slots)
    return Lanes(
        [*slots, *[slots[0]] * padding],
        [*positions, *[scratch] * padding],
        list(range(len(slots))),
        length,
        dense=False,
    )


class Arena:
    """Keys, values and projected sources of all rows.

    Attributes:
        cache: ``[layers, 2, slots, heads, length + 1, head_dim]``; the last position takes what idle lanes write.
        sources: ``[layers, 2, sources, slots, heads, T, head_dim]``, in a model with cross-attention.
        masks: ``[sources, slots, T]``, 0 or -inf, added to the scores.
        weights: ``[sources, slots]``, how the results are mixed; 0 where there is no source.
        generation: changes whenever the memory does.
    """

    def __init__(self, weights: Weights, dtype: torch.dtype, slots: int, length: int) -> None:
        self._shape = (len(weights.layers), weights.num_heads, weights.head_dim)
        self._dtype, self._device = dtype, weights.embeddings.device
        self.slots, self.length = round_rows(slots), round_length(length)
        self.generation = 0
        self._held: set[int] = set()
        self._source_sizes: dict[int, tuple[int, int]] = {}
        self.cache = self._new_cache()
        self._source_room = (1, round_source(1)) if weights.crossed else (0, 0)
        self.sources, self.masks, self.weights = self._new_sources()

    @property
    def source_shape(self) -> tuple[int, int]:
        """How many sources a row has and their length, rounded, of those that hold a slot."""
        sizes = [size for size in self._source_sizes.values() if size[0]]
        if not sizes:
            return (0, 0)
        return max(count for count, _ in sizes), round_source(max(length for _, length in sizes))

    def take(self, count: int, length: int) -> list[int]:
        """Return the lowest free slots, zeroed, with room for ``length`` positions; grow where there are too few."""
        free = [slot for slot in range(self.slots) if slot not in self._held]
        if len(free) < count or length > self.length:
            missing = max(0, count - len(free))
            free += range(self.slots, self.slots + missing)
            self._grow(round_rows(max(self.slots + missing, 2 * self.slots if missing else 0)), length)
        taken = free[:count]
        self._held.update(taken)
        return taken

    def give(self, slot: int, filled: int) -> None:
        """Take a slot back and wipe the ``filled`` positions and the sources, so that its next row finds nothing."""
        if slot not in self._held:
            return
        self.cache[:, :, slot, :, :filled] = 0
        self.attach(slot, [])
        del self._source_sizes[slot]
        self._held.remove(slot)

    def move(self, slot: int, filled: int) -> int:
        """Move a row to the lowest free slot, and return that."""
        (target,) = self.take(1, 0)
        self.cache[:, :, target, :, :filled] = self.cache[:, :, slot, :, :filled]
        self.sources[:, :, :, target] = self.sources[:, :, :, slot]
        self.masks[:, target], self.weights[:, target] = self.masks[:, slot], self.weights[:, slot]
        self._source_sizes[target] = self._source_sizes[slot]
        self.give(slot, filled)
        return target

    def attach(self, slot: int, projected: Sequence[torch.Tensor]) -> None:
        """Replace what a slot attends to by keys and values ``[layers, 2, heads, T, head_dim]``, not yet weighted."""
        longest = max((part.shape[3] for part in projected), default=0)
        if len(projected) > self._source_room[0] or longest > self._source_room[1]:
            self._grow_sources(len(projected), longest)
        self._source_sizes[slot] = (len(projected), longest)
        self.sources[:, :, :, slot] = 0
        self.masks[:, slot] = 0
        self.weights[:, slot] = 0
        for index, part in enumerate(projected):
            tokens = part.shape[3]
            self.sources[:, :, index, slot, :, :tokens] = part
            self.masks[index, slot, tokens:] = -torch.inf

    def reweight(self, slot: int, weights: Sequence[float]) -> None:
        """Mix the same sources otherwise."""
        self.weights[: len(weights), slot] = torch.tensor(weights, dtype=self._dtype, device=self._device)

    def write(self, layer: int, slots: torch.Tensor, positions: torch.Tensor, new: torch.Tensor) -> None:
        """Put keys and values ``[R, 2, heads, head_dim]`` into their places."""
        self.cache[layer].permute(1, 3, 0, 2, 4)[slots, positions] = new

    def read(self, layer: int, slots: torch.Tensor, length: int, dense: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first ``length`` keys and values of each lane, ``[R, heads, length, head_dim]``."""
        keys, values = self.cache[layer, :, :, :, :length]
        return _lanes(keys, slots, dense), _lanes(values, slots, dense)

    def read_source(
        self, layer: int, index: int, slots: torch.Tensor, length: int, dense: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of each lane's source ``index``, ``[R, heads, length, head_dim]``."""
        keys, values = self.sources[layer, :, index, :, :, :length]
        return _lanes(keys, slots, dense), _lanes(values, slots, dense)

    def source_masks(
        self, index: int, slots: torch.Tensor, length: int, dense: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mask ``[R, length]`` and the weights ``[R]`` of each lane's source ``index``."""
        return _lanes(self.masks[index, :, :length], slots, dense), _lanes(self.weights[index], slots, dense)

    def _grow(self, slots: int, length: int) -> None:
        old, old_slots, old_length = self.cache, self.slots, self.length
        self.slots, self.length = slots, max(old_length, round_length(length))
        self.cache = self._new_cache()
        for slot in self._held:
            self.cache[:, :, slot, :, :old_length] = old[:, :, slot, :, :old_length]
        if slots != old_slots:
            old_sources = (self.sources, self.masks, self.weights)
            self.sources, self.masks, self.weights = self._new_sources()
            self.sources[:, :, :, :old_slots] = old_sources[0]
            self.masks[:, :old_slots] = old_sources[1]
            self.weights[:, :old_slots] = old_sources[2]
        self.generation += 1

    def _grow_sources(self, count: int, length: int) -> None:
        old_count, old_length = self._source_room
        old = (self.sources, self.masks, self.weights)
        self._source_room = (max(old_count, count), max(old_length, round_source(max(length, 1))))
        self.sources, self.masks, self.weights = self._new_sources()
        self.sources[:, :, :old_count, :, :, :old_length] = old[0]
        self.masks[:old_count, :, :old_length] = old[1]
        self.weights[:old_count] = old[2]
        for slot, (held, _) in self._source_sizes.items():
            self.masks[:held, slot, old_length:] = -torch.inf
        self.generation += 1

    def _new_cache(self) -> torch.Tensor:
        layers, heads, head_dim = self._shape
        shape = (layers, 2, self.slots, heads, self.length + 1, head_dim)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)

    def _new_sources(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        layers, heads, head_dim = self._shape
        count, room = self._source_room
        shape = (layers, 2, count, self.slots, heads, room, head_dim)
        return (
            torch.zeros(shape, dtype=self._dtype, device=self._device),
            torch.zeros((*shape[2:4], room), dtype=self._dtype, device=self._device),
            torch.zeros(shape[2:4], dtype=self._dtype, device=self._device),
        )


def _lanes(tensor: torch.Tensor, slots: torch.Tensor, dense: bool) -> torch.Tensor:
    """Return the part of each lane from ``[slots, ...]``: a view where lanes are slots."""
    return tensor[: len(slots)] if dense else tensor[slots]
