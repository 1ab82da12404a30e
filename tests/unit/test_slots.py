"""The shapes that steps are cut into, and the memory behind them."""

from __future__ import annotations

import pytest
import torch

from services.models.slots import Lanes, arrange, round_length, round_rows, round_source


def test_rows_are_padded_to_few_sizes() -> None:
    sizes = [round_rows(count) for count in range(1, 257)]
    assert all(size >= count and size % 4 == 0 for count, size in enumerate(sizes, start=1))
    assert [round_rows(count) for count in (1, 4, 5, 16, 17, 64, 65)] == [4, 4, 8, 16, 24, 64, 96]
    assert len(set(sizes)) == 16
    assert all(round_rows(size) == size for size in sizes)


def test_lengths_are_padded_to_few_sizes_that_a_cpu_sums_alike() -> None:
    sizes = [round_length(count) for count in range(1, 2049)]
    assert all(size >= count and size % 64 == 0 for count, size in enumerate(sizes, start=1))
    assert sorted(set(sizes)) == [64, 128, 192, 256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048]
    assert all(round_length(size) == size for size in sizes)
    assert [round_source(count) for count in (1, 32, 33, 64, 65, 300)] == [32, 32, 64, 64, 128, 512]


def test_single_tokens_are_read_in_place() -> None:
    lanes = arrange([2, 0], [70, 5], scratch=256)
    assert lanes == Lanes([0, 1, 2, 3], [5, 256, 70, 256], [2, 0], 128, dense=True)


@pytest.mark.parametrize(
    ("slots", "positions"),
    [([1, 1, 1], [4, 5, 6]), ([17, 3], [9, 0])],
    ids=["several tokens of a row", "few rows among many slots"],
)
def test_anything_else_is_gathered(slots: list[int], positions: list[int]) -> None:
    lanes = arrange(slots, positions, scratch=64)
    padding = 4 - len(slots)
    assert lanes.slots == slots + [slots[0]] * padding
    assert lanes.positions == positions + [64] * padding
    assert lanes.places == list(range(len(slots)))
    assert (lanes.length, lanes.dense) == (64, False)


def test_idle_lanes_are_never_more_than_the_others() -> None:
    assert arrange(list(range(8)), [0] * 8, scratch=64).dense
    assert arrange([*range(7), 15], [0] * 8, scratch=64).dense
    assert not arrange([*range(7), 16], [0] * 8, scratch=64).dense


def test_the_lanes_of_a_step_name_each_row_once() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        count = int(torch.randint(1, 40, (), generator=generator))
        slots = torch.randperm(64, generator=generator)[:count].tolist()
        positions = torch.randint(0, 500, (count,), generator=generator).tolist()
        lanes = arrange(slots, positions, scratch=512)
        assert [lanes.slots[place] for place in lanes.places] == slots
        assert [lanes.positions[place] for place in lanes.places] == positions
        idle = set(range(len(lanes.slots))) - set(lanes.places)
        assert all(lanes.positions[place] == 512 for place in idle)
        assert lanes.length > max(positions)
        assert not lanes.dense or lanes.slots == list(range(len(lanes.slots)))
