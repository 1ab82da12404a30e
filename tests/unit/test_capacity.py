"""The simulator of a fleet: queues with known answers, and the autoscaler's published algorithm."""

from __future__ import annotations

import pytest

from tests.bench.capacity import most_slots, simulate
from tests.bench.capacity.autoscaler import Autoscaler, quantity
from tests.bench.capacity.fleet import Balancer, Fleet, Scrapes, Settings, Traffic
from tests.bench.capacity.pods import FIRST_STEPS, Curve, Piece, Pod, alone


def test_the_curve_goes_through_its_points_and_on() -> None:
    curve = Curve({1: 15.0, 4: 21.0, 8: 41.0})
    assert [curve(count) for count in (1, 2, 4, 6, 8, 10)] == pytest.approx([0.015, 0.017, 0.021, 0.031, 0.041, 0.051])
    assert Curve({1: 3.0})(9) == 0.003


@pytest.mark.parametrize("points", [{}, {0: 1.0}, {1: 0.0}])
def test_a_curve_that_can_not_be_is_refused(points: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="curve"):
        Curve(points)


def test_one_stream_takes_its_steps() -> None:
    (piece,) = alone([Piece(1.0, 100)], Curve({1: 10.0}), slots=1, queue_limit=0)
    assert piece.first_audio == pytest.approx(1.0 + FIRST_STEPS * 0.01)
    assert piece.end == pytest.approx(2.0)


def test_two_streams_slow_each_other_only_while_both_run() -> None:
    curve = Curve({1: 10.0, 2: 20.0})
    first, second = alone([Piece(0.0, 100), Piece(0.5, 100)], curve, slots=2, queue_limit=0)
    # Half a second alone is 50 steps; the other 50 take 20 ms each; the second then has 50 left, alone again.
    assert first.end == pytest.approx(1.5)
    assert second.end == pytest.approx(2.0)


def test_who_finds_no_slot_waits_for_one() -> None:
    pieces = alone([Piece(0.0, 100) for _ in range(3)], Curve({1: 10.0}), slots=1, queue_limit=2)
    assert sorted(piece.end or 0 for piece in pieces) == pytest.approx([1.0, 2.0, 3.0])
    assert sorted(piece.first_audio or 0 for piece in pieces) == pytest.approx([0.12, 1.12, 2.12])


def test_a_loaded_pod_is_a_queue_with_processor_sharing() -> None:
    """M/D/1 with processor sharing: the mean time is the piece's own over what is left of the server."""
    curve = Curve({count: 10.0 * count for count in range(1, 257)})
    settings = Settings(curve, slots=256, queue_limit=10_000)
    traffic = Traffic(listeners=1, pieces_a_day=86_400 * 0.5, piece_seconds=2.0 - 0.06, swing=0.0)
    fleet = Fleet(settings, traffic, None, 1)
    fleet.run(20_000, seed=3)
    times = [piece.end - piece.arrival for piece in fleet._pieces if piece.end is not None]
    assert sum(times) / len(times) == pytest.approx(1.0 / (1 - 0.5), rel=0.1)


def test_the_edge_gives_to_whoever_has_least_and_forgets_who_left() -> None:
    def pod() -> Pod:
        return Pod(Curve({1: 10.0}), 2, 8, lambda *_: None)

    edge, first, second = Balancer(), pod(), pod()
    edge.add(first)
    edge.add(second)
    for _ in range(3):
        least = edge.least()
        least.submit(Piece(0.0, 100), 0.0)
        edge.update(least)
    assert sorted([first.load, second.load]) == [1, 2]
    edge.remove(min(first, second, key=lambda one: one.load))
    assert edge.least().load == 2


def test_a_minute_of_scrapes_says_how_long_who_comes_will_wait() -> None:
    pod, scrapes = Pod(Curve({1: 10.0}), 1, 40, lambda *_: None), Scrapes()
    pod.waiting.extend(Piece(0.0, 100) for _ in range(6))
    for second in range(0, 120, 5):
        pod.served = second // 5
        scrapes.take(pod)
    # Six wait, and one is served every five seconds.
    assert scrapes.queue_wait_seconds == pytest.approx(30.0)


def test_quantities() -> None:
    assert (quantity("750m"), quantity("1"), quantity(2)) == (0.75, 1.0, 2.0)


def scaler(maximum: int = 100) -> Autoscaler:
    up = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 30}]}
    down = {"stabilizationWindowSeconds": 60, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}
    return Autoscaler({"used": 0.5}, 1, maximum, up, down)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.5, 0.5], 2),
        ([0.54, 0.54], 2),  # within the tolerance of 10 %
        ([0.7, 0.7], 3),
        ([1.0, 1.0], 4),
        ([], 2),  # no metrics, no change
    ],
)
def test_desired_replicas_are_those_of_the_published_formula(values: list[float], wanted: int) -> None:
    assert scaler().decide(0, 2, {"used": values}) == wanted


def test_pods_that_are_coming_count_as_idle_on_the_way_up() -> None:
    assert scaler().decide(0, 4, {"used": [1.0, 1.0]}) == 4


def test_it_goes_up_by_no_more_than_its_policy_and_its_maximum() -> None:
    one = scaler(maximum=3)
    assert one.decide(0, 1, {"used": [5.0]}) == 2
    assert one.decide(15, 2, {"used": [5.0, 5.0]}) == 2
    assert one.decide(30, 2, {"used": [5.0, 5.0]}) == 3


def test_it_goes_down_only_when_the_window_agrees() -> None:
    one = scaler()
    assert one.decide(0, 4, {"used": [0.5] * 4}) == 4
    assert one.decide(30, 4, {"used": [0.1] * 4}) == 4
    assert one.decide(75, 4, {"used": [0.1] * 4}) == 3


def test_the_autoscaler_is_the_manifests() -> None:
    one = Autoscaler.from_manifest()
    assert one.targets == {
        "antiphon_slots_used_ratio": 0.75,
        "antiphon_queue_wait_seconds": 1.0,
        "antiphon_step_budget_ratio": 0.85,
    }
    assert one.minimum == 2


def test_slots_are_as_many_as_play_in_time() -> None:
    assert most_slots(Curve({1: 15.3, 8: 40.0})) == 1
    assert most_slots(Curve({1: 5.0, 8: 12.0})) == 13


def test_a_day_of_few_listeners_loses_nobody_and_costs_less_than_the_peak() -> None:
    settings = Settings(Curve({1: 4.0, 8: 12.0}), slots=8)
    row = simulate(settings, Traffic(10_000), seconds=6 * 3600)
    assert row.scaled.rejected == row.fixed.rejected == 0
    assert row.scaled.first_audio_at(0.99) < 1.0
    assert row.scaled.replica_seconds < row.fixed.replica_seconds
    assert row.scaled.pieces == row.fixed.pieces
