"""The queue that is fair between clients."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.generator.fairness import FairQueue

clients = st.sampled_from("abcd")


@given(st.lists(clients, max_size=40))
def test_first_come_first_served_within_a_client_and_in_turn_between_them(order: list[str]) -> None:
    queue = FairQueue[tuple[str, int]]()
    for number, client in enumerate(order):
        queue.push(client, (client, number))
    left, served = Counter(order), Counter[str]()
    last: dict[str, int] = {}
    while queue:
        # Nobody frees a slot: who holds fewest is next.
        client, number = queue.pop(served)
        assert number > last.get(client, -1)
        assert served[client] == min(served[name] for name in left if left[name])
        last[client] = number
        served[client] += 1
        left[client] -= 1
    assert served == Counter(order)


@given(st.lists(clients, min_size=1, max_size=40), clients)
def test_the_newest_of_the_longest_gives_way_to_who_waits_with_less(order: list[str], newcomer: str) -> None:
    queue = FairQueue[tuple[str, int]]()
    for number, client in enumerate(order):
        queue.push(client, (client, number))
    counts = Counter(order)
    displaced = queue.displace(newcomer)
    if max(counts.values()) < counts[newcomer] + 2:
        assert displaced is None and len(queue) == len(order)
    else:
        assert displaced is not None
        client, number = displaced
        assert counts[client] == max(counts.values())
        assert number == max(index for index, name in enumerate(order) if name == client)
        assert displaced not in list(queue)


def test_unwanted_items_are_removed() -> None:
    queue = FairQueue[int]()
    for number in range(6):
        queue.push("ab"[number % 2], number)
    assert sorted(queue.remove(lambda number: number < 3)) == [0, 1, 2]
    assert sorted(queue) == [3, 4, 5]
