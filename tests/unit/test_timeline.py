"""What a piece hears at each step, as a function of its changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.requests import Change
from services.generator.timeline import MOST_SOURCES, Timeline
from services.models.conditions import Prompt
from services.models.sampling import Sampling

texts = st.sampled_from(["", "piano", "organ", "guitar", "strings"])
prompts = st.lists(st.builds(Prompt, texts, st.floats(0.01, 100)), max_size=8).map(tuple)
changes = st.lists(
    st.tuples(
        st.integers(0, 40),
        prompts,
        st.integers(0, 30),
        st.dictionaries(st.just("cfg_coef"), st.sampled_from([1.0, 3.0])),
    ),
    max_size=6,
)


def build(entries: list[tuple[int, Change]]) -> Timeline:
    timeline = Timeline([Prompt("piano")], Sampling())
    for step, change in entries:
        timeline.change(step, change)
    return timeline


def test_a_fade_goes_from_the_old_prompt_to_the_new_in_equal_steps() -> None:
    timeline = build([(10, Change((Prompt("organ"),), blend_steps=3))])
    assert timeline.mix(9) == (("piano", 1.0),)
    assert [dict(timeline.mix(10 + i))["organ"] for i in range(3)] == pytest.approx([0.25, 0.5, 0.75])
    assert timeline.mix(13) == timeline.mix(1000) == (("organ", 1.0),)


def test_a_change_in_a_fade_begins_where_the_fade_was() -> None:
    change = Change((Prompt("organ"),), blend_steps=3)
    timeline = build([(0, change), (1, Change((Prompt("guitar"),), blend_steps=1))])
    # At step 1 the organ would have had a half; half of the whole has gone to the guitar.
    assert dict(timeline.mix(1)) == pytest.approx({"piano": 0.25, "organ": 0.25, "guitar": 0.5})


def test_a_change_of_sampling_leaves_a_fade_alone() -> None:
    fade = Change((Prompt("organ"),), blend_steps=9)
    plain, changed = build([(2, fade)]), build([(2, fade), (5, Change(sampling={"temperature": 0.5}))])
    assert [plain.mix(step) for step in range(20)] == [changed.mix(step) for step in range(20)]
    assert [changed.sampling(step).temperature for step in (4, 5, 19)] == [1.0, 0.5, 0.5]


@given(changes)
def test_weights_sum_to_one_and_stay_until_the_step_that_is_told(
    drawn: list[tuple[int, tuple[Prompt, ...], int, dict[str, float]]],
) -> None:
    drawn.sort(key=lambda entry: entry[0])
    entries = [(step, Change(new, sampling, blend if new else 0)) for step, new, blend, sampling in drawn]
    timeline = build(entries)
    for step in range(80):
        mix = timeline.mix(step)
        assert sum(weight for _, weight in mix) == pytest.approx(1.0)
        assert len(mix) <= MOST_SOURCES and len({text for text, _ in mix}) == len(mix)
        steady = timeline.steady(step)
        assert steady is None or steady > step
        for later in range(step, min(steady if steady is not None else 80, 80)):
            assert timeline.mix(later) == mix
    # What has been heard does not depend on what comes after.
    for count in range(len(entries)):
        for step in range(entries[count][0]):
            assert build(entries[:count]).mix(step) == timeline.mix(step)
