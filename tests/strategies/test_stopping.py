"""Rules that stop sampling, against references that know nothing of their formulae."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from math import comb
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.errors import InvalidParameter
from strategies.select import by_vote, classes
from strategies.stopping import (
    Adaptive,
    AnyOf,
    Never,
    Rule,
    Stop,
    Verified,
    Waves,
    Window,
    beta,
    cannot_be_overturned,
    check,
    confidence,
    decide,
)
from strategies.types import Candidate, Decision
from tests.strategies.support import candidate

Said = tuple[int | None, bool, float | None]
"""Of a recorded sample: its class, whether it is complete, its score."""

SAID = st.tuples(
    st.sampled_from([None, 0, 0, 0, 1, 2]),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([None, 0.0, 0.5, 1.0]),
)
RECORDED = st.lists(SAID, max_size=14)


def samples(said: Sequence[Said]) -> list[Candidate]:
    return [
        candidate(
            i, None if group is None else str(group), group, score=score, finish_reason="stop" if whole else "length"
        )
        for i, (group, whole, score) in enumerate(said)
    ]


def of(text: str) -> list[Candidate]:
    """Samples from letters: one a class, `-` without an answer, a capital with a score of 1."""
    groups = [None if letter == "-" else ord(letter.lower()) for letter in text]
    return samples([(group, True, float(letter.isupper())) for group, letter in zip(groups, text, strict=True)])


def sure(rule: Rule, drawn: Sequence[Candidate]) -> dict[int, float]:
    return rule.sure(drawn, classes(drawn))


# The Beta rule


def integrated(a: int, b: int) -> Fraction:
    """P(p > 1/2) where the density of p is proportional to p^a (1 - p)^b, integrated term by term."""

    def up_to(x: Fraction) -> Fraction:
        return sum((Fraction((-1) ** k * comb(b, k), a + k + 1) * x ** (a + k + 1) for k in range(b + 1)), Fraction(0))

    return 1 - up_to(Fraction(1, 2)) / up_to(Fraction(1))


@pytest.mark.parametrize(("a", "b"), [(a, b) for a in range(24) for b in range(a + 1)])
def test_the_closed_form_is_the_integral(a: int, b: int) -> None:
    assert beta(a, b) == float(integrated(a, b))


@pytest.mark.parametrize(("a", "b"), [(0, 0), (4, 1), (300, 280), (1000, 24), (512, 512)])
def test_it_is_the_papers_sum_at_every_size(a: int, b: int) -> None:
    n = a + b + 1
    assert beta(a, b) == float(Fraction(sum(comb(n, j) for j in range(a + 1)), 2**n))


def test_the_least_majorities_that_are_sure() -> None:
    least = {b: next(a for a in range(99) if beta(a, b) >= 0.95) for b in range(9)}
    assert least == {0: 4, 1: 6, 2: 8, 3: 9, 4: 11, 5: 12, 6: 14, 7: 15, 8: 17}


@pytest.mark.parametrize(("said", "expected"), [("", (0, 0)), ("-", (0, 0)), ("abacb-a", (3, 2)), ("aa", (2, 0))])
def test_confidence_is_of_the_two_leading_answers(said: str, expected: tuple[int, int]) -> None:
    assert confidence(classes(of(said))) == beta(*expected)


# Every rule against a reference


def adaptive(said: Sequence[Said], least: float) -> bool:
    counts = Counter(group for group, whole, _ in said if whole and group is not None).most_common(2)
    first, second = [*(count for _, count in counts), 0, 0][:2]
    return integrated(first, second) >= Fraction(least)


def window(said: Sequence[Said], size: int) -> bool:
    if not said or len(said) % size:
        return False
    answers = {group if whole else None for group, whole, _ in said[len(said) - size :]}
    return len(answers) == 1 and answers != {None}


def verified(said: Sequence[Said], least: float, count: int) -> bool:
    good = [
        group for group, whole, score in said if whole and group is not None and score is not None and score >= least
    ]
    return any(good.count(group) >= count for group in good)


def overturned(said: Sequence[Said], left: int) -> bool:
    """Whether one of all ways to go on elects another answer than the votes so far, each by the election itself."""
    now = by_vote(samples(said)).ranked[:1]
    if not now or not now[0].votes:
        return True
    groups = sorted({group for group, _, _ in said if group is not None})
    new = max(groups, default=0) + 1
    choices: list[int | None] = [None, *groups, *range(new, new + left)]
    for rest in product(choices, repeat=left):
        later = by_vote(samples([*said, *((group, True, None) for group in rest)])).ranked[0]
        if later.group != now[0].group:
            return True
    return False


@given(RECORDED, st.sampled_from([0.51, 0.75, 0.9, 0.95]))
def test_adaptive(said: list[Said], least: float) -> None:
    assert bool(sure(Adaptive(confidence=least), samples(said))) == adaptive(said, least)


@given(RECORDED, st.integers(2, 5))
def test_window(said: list[Said], size: int) -> None:
    assert bool(sure(Window(size=size), samples(said))) == window(said, size)


@given(RECORDED, st.sampled_from([0.5, 1.0]), st.integers(1, 3))
def test_verified(said: list[Said], least: float, count: int) -> None:
    found = sure(Verified(score=least, count=count), samples(said))
    assert bool(found) == verified(said, least, count)
    assert all(score >= least for score in found.values())


@given(st.lists(SAID, max_size=5), st.integers(0, 4))
def test_a_majority_that_no_completion_overturns(said: list[Said], left: int) -> None:
    assert cannot_be_overturned(classes(samples(said)), left) == (not overturned(said, left))


@given(RECORDED, st.integers(0, 4))
def test_decide_names_the_first_rule_that_holds(said: list[Said], left: int) -> None:
    stop = AnyOf(any=(Window(size=4), Adaptive(confidence=0.9)))
    found = decide(stop, samples(said), len(said) + left)
    holds = [name for name, held in [("window", window(said, 4)), ("adaptive", adaptive(said, 0.9))] if held]
    if not left or not said:
        assert found is None
    elif holds:
        assert found == Decision(holds[0], len(said), confidence(classes(samples(said))))
    else:
        assert (found is None) == (not cannot_be_overturned(classes(samples(said)), left))
        assert found is None or found == Decision("majority", len(said), 1.0)


# Decisions


@pytest.mark.parametrize(
    ("stop", "said", "most", "expected"),
    [
        (Adaptive(), "aaa", 16, None),
        (Adaptive(), "aaaa", 16, Decision("adaptive", 4, 1 - 2**-5)),
        (Adaptive(), "aaaa", 4, None),  # all are drawn: nothing is stopped
        (Adaptive(), "abaa", 5, Decision("majority", 4, 1.0)),
        (Adaptive(), "abab", 5, None),
        (Adaptive(), "ab", 3, None),
        (Adaptive(), "aab", 4, Decision("majority", 3, 1.0)),  # b may draw level, and a came first
        (Adaptive(), "baa", 4, None),  # b may draw level, and b came first
        (Adaptive(), "", 4, None),
        (Never(), "aaaaaaaa", 9, None),
        (Window(), "baaa", 20, None),  # windows are disjoint
        (Window(), "bacaaa", 20, Decision("window", 6, beta(4, 1))),
        (Window(), "aa-aaa", 30, Decision("window", 6, beta(5, 0))),
        (Window(), "---", 30, None),
        (Window(size=2), "babbaa", 30, Decision("window", 6, beta(3, 3))),  # though the vote is even
    ],
)
def test_what_stops_a_majority_vote(stop: Stop, said: str, most: int, expected: Decision | None) -> None:
    assert decide(stop, of(said), most) == expected


@pytest.mark.parametrize(
    ("stop", "said", "expected"),
    [
        (Verified(), "aaa", None),
        (Verified(), "aaB", Decision("verified", 3, 1.0)),
        (Verified(count=2), "aBaB", Decision("verified", 4, 1.0)),
        (Verified(count=2), "AB", None),
        (Verified(count=2), "ABB", None),  # a is chosen, whose first sample has the same score as b's
        (Verified(score=0.5), "A", Decision("verified", 1, 1.0)),
        (Adaptive(), "aaaaaa", Decision("adaptive", 6, beta(6, 0))),
        (Adaptive(), "aaaaaaB", None),  # the vote is decided, and the scorer likes another answer better
        (Adaptive(), "aAaaaaB", Decision("adaptive", 7, beta(6, 1))),
        (Adaptive(), "aaaaa", Decision("adaptive", 5, beta(5, 0))),
    ],
)
def test_where_scores_choose_a_rule_stops_for_what_they_choose(
    stop: Stop, said: str, expected: Decision | None
) -> None:
    assert decide(stop, of(said), 40, "best") == expected


def test_a_weighted_vote_is_not_stopped_by_counts_alone() -> None:
    said = of("Aaaa")
    assert cannot_be_overturned(classes(said), 1)
    assert decide(Window(), said, 5, "weighted_vote") is None
    assert decide(Window(), said, 5, "majority") == Decision("majority", 4, 1.0)


def test_no_opinion_verifies_nothing() -> None:
    assert sure(Verified(score=0.5), samples([(0, True, None), (1, True, 0.4)])) == {}
    assert sure(Verified(score=0.5), samples([(0, True, None), (1, True, 0.6)])) == {1: 0.6}


def test_the_last_of_the_scores_that_verify_says_how_sure_it_is() -> None:
    said: list[Said] = [(0, True, 0.7), (0, True, 0.9), (0, True, 0.8), (1, True, 0.65)]
    assert sure(Verified(score=0.6, count=2), samples(said)) == {0: 0.8}


# Waves


@pytest.mark.parametrize(
    ("waves", "most", "sizes"),
    [
        (Waves(), 1, [1]),
        (Waves(), 16, [4, 8, 4]),
        (Waves(), 200, [4, 8, 16, 32, 64, 64, 12]),
        (Waves(start=3, growth=1.5, cap=6), 20, [3, 4, 6, 6, 1]),
        (Waves(start=9, cap=2), 5, [2, 2, 1]),
        (Waves(start=1, growth=1), 3, [1, 1, 1]),
    ],
)
def test_waves_grow_to_the_cap_and_draw_what_is_asked_for(waves: Waves, most: int, sizes: list[int]) -> None:
    assert list(waves.sizes(most)) == sizes
    assert waves.rounds(Adaptive(), most) == len(sizes)
    assert waves.rounds(Never(), most) == 1


# What does not fit


@pytest.mark.parametrize(
    ("stop", "more", "param"),
    [
        (Window(size=5), {}, "strategy.stop.size"),
        (AnyOf(any=(Adaptive(), Window(size=5))), {}, "strategy.stop.any[1].size"),
        (Verified(), {"scored": False}, "strategy.stop"),
        (AnyOf(any=(Verified(),)), {"scored": False}, "strategy.stop.any[0]"),
        (Verified(count=5), {}, "strategy.stop.count"),
        (Never(), {"waves": Waves(start=2)}, "strategy.waves"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(stop: Stop, more: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        check(stop, samples=4, **{"waves": Waves(), "scored": True, **more})
    assert refused.value.param == param
    check(stop, Waves(), 5, scored=True)
