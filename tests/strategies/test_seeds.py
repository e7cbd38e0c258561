"""Seeds of branches."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from strategies.seeds import derive

PATHS = st.tuples(st.integers(-(2**63), 2**63), st.lists(st.one_of(st.integers(), st.text()), max_size=3))


@given(PATHS)
def test_the_same_path_has_the_same_seed_within_bounds(path: tuple[int, list[int | str]]) -> None:
    seed = derive(path[0], *path[1])
    assert seed == derive(path[0], *path[1])
    assert seed is not None
    assert 0 <= seed < 2**62


@given(PATHS, PATHS)
def test_different_paths_never_have_near_seeds(
    one: tuple[int, list[int | str]], other: tuple[int, list[int | str]]
) -> None:
    left, right = derive(one[0], *one[1]), derive(other[0], *other[1])
    assert left is not None
    assert right is not None
    assert one == other or abs(left - right) > 2**20


def test_neighbouring_bases_have_distant_seeds() -> None:
    seeds = sorted(seed for base in range(1000) if (seed := derive(base, "best_of_n")) is not None)
    assert len(seeds) == 1000
    assert min(after - before for before, after in pairwise(seeds)) > 2**20


def test_without_a_seed_there_is_none() -> None:
    assert derive(None, "self_consistency", 3) is None


def test_a_number_and_its_spelling_are_different_paths() -> None:
    assert derive(1, 2) != derive(1, "2")
