"""scripts/balance_styles.py: which factors it takes, and what it writes into a card."""

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from helpers.scripts import script
from laur.style import cards


@pytest.fixture(scope="module", name="script")
def loaded() -> ModuleType:
    return script("balance_styles")


def taken(script: ModuleType, found: dict[tuple[float, float], tuple[float, float]]) -> tuple[float, float]:
    chosen = script.chosen({script.pair(*factors): kept for factors, kept in found.items()})
    assert chosen.kind == 0
    return chosen.quarters[:2]


def test_prompts_are_others_than_the_benchmark_draws(script: ModuleType) -> None:
    drawn = {prompt.concept for prompt in script.from_file(script.PROMPTS / "styles.jsonl")}
    found = script.prompts_of(1000)
    assert len({prompt.concept for prompt in found}) == len(found) == 86
    assert [prompt.text for prompt in script.prompts_of(16)] == [prompt.text for prompt in found[:16]]
    assert not drawn & {prompt.concept for prompt in found}


def test_pairs_alone_are_sought_where_that_is_asked(script: ModuleType) -> None:
    asked: list[object] = []

    def measure(factors: object) -> tuple[float, float]:
        asked.append(factors)
        return 0.5, 0.5 + 0.01 * len(asked)

    script.search(measure, pairs_alone=True)
    weights = list(dict.fromkeys(factors._replace(guidance=1.0) for factors in asked))
    assert weights == list(script.TRIED)
    asked.clear()
    script.search(measure)
    assert len(asked) > 2 * len(script.TRIED)


def test_guidance_is_for_captions_that_weights_do_not_keep(script: ModuleType) -> None:
    asked: list[float] = []

    def measure(factors: Any) -> tuple[float, float]:
        asked.append(factors.guidance)
        return 1.1, 0.88 + 0.25 * (factors.guidance - 1)

    taken = script.search(measure)
    assert (taken.quarters, taken.guidance) == ((1, 1, 1, 1), 1.5)
    assert asked[-1] == 1.5, "no more than is needed"
    asked.clear()
    assert script.search(lambda factors: asked.append(factors.guidance) or (1.0, 1.0)) == script.PLAIN
    assert set(asked) == {1.0}


def test_what_a_card_says_is_tried_too(script: ModuleType, tmp_path: Path) -> None:
    before = script.Factors((0.0, 0.6, 1.4, 2.0), (("up", 1.2),), 1.5)
    file = tmp_path / "ink.safetensors"
    file.touch()
    (tmp_path / "ink.toml").write_text('words = "x"\n\n[mini]\nfile = "ink.safetensors"\n')
    script.write(cards.read(tmp_path / "ink.toml", "own"), "c" * 64, "d" * 64, before)
    card = cards.read(tmp_path / "ink.toml", "own")
    assert script.said(card, "c" * 64, "d" * 64) == before
    assert script.said(card, "c" * 64, "e" * 64) == script.PLAIN
    asked: list[object] = []
    script.search(lambda factors: asked.append(factors) or (1.0, 1.0), before=before)
    assert before in asked


def test_the_nearest_to_plain_that_keeps_both_is_taken(script: ModuleType) -> None:
    found = {(1.0, 1.0): (0.7, 1.0), (1.5, 1.5): (1.1, 0.98), (1.25, 1.25): (0.95, 0.98), (0.8, 1.25): (0.9, 1.0)}
    assert taken(script, found) == (1.25, 1.25)


def test_neither_is_bought_with_the_other(script: ModuleType) -> None:
    assert taken(script, {(1.0, 1.0): (0.8, 0.8), (1.5, 1.5): (1.3, 0.5), (0.6, 0.6): (0.5, 1.2)}) == (1.0, 1.0)
    assert taken(script, {(1.0, 1.0): (1.15, 0.05), (0.8, 0.8): (0.95, 0.6), (0.6, 0.6): (0.5, 1.0)}) == (0.8, 0.8)


def test_of_two_that_miss_a_goal_by_as_much_the_one_that_keeps_more_of_the_other(script: ModuleType) -> None:
    found = {(1.0, 1.0): (0.60, 1.0), (1.0, 1.25): (0.80, 0.84), (0.3, 1.5): (0.80, 0.93), (0.3, 1.25): (0.72, 0.97)}
    assert taken(script, found) == (0.3, 1.5)


def test_a_little_better_is_not_enough(script: ModuleType) -> None:
    assert taken(script, {(1.0, 1.0): (0.91, 1.0), (1.25, 1.25): (0.92, 1.0)}) == (1.0, 1.0)
    assert taken(script, {(1.0, 1.0): (0.90, 1.0), (1.25, 1.25): (0.93, 1.0)}) == (1.25, 1.25)


def test_blocks_are_weighed_where_that_gains_enough(script: ModuleType) -> None:
    late = script.pair(0.3, 1.0)
    found = {script.PLAIN: (1.1, 0.6), late: (0.9, 0.8), late._replace(blocks=(("up", 1.4),)): (0.95, 0.9)}
    assert script.chosen(found).blocks == (("up", 1.4),)
    found[late._replace(blocks=(("up", 1.4),))] = (0.95, 0.81)
    assert script.chosen(found) == late


def test_quarters_are_weighed_where_that_gains_enough(script: ModuleType) -> None:
    late, rising = script.pair(0.3, 1.0), script.Factors((0.0, 0.6, 1.4, 2.0))
    assert script.chosen({script.PLAIN: (1.1, 0.6), late: (0.85, 0.9), rising: (0.9, 1.0)}) == rising
    assert script.chosen({script.PLAIN: (1.1, 0.6), late: (0.85, 0.9), rising: (0.86, 0.9)}) == late
    assert rising.phases == ((0.0, 0.0), (0.25, 0.6), (0.5, 1.4), (0.75, 2.0))
    assert script.Factors((0.6, 0.6, 1.0, 1.0)).phases == ((0.0, 0.6), (0.5, 1.0))


def test_a_quarters_neighbours_are_larger_and_smaller_within_limits(script: ModuleType) -> None:
    found = [factors.quarters for factors in script.neighbours(script.Factors((0.0, 0.2, 1.0, 3.0)))]
    assert found == [
        *((0.3, 0.2, 1.0, 3.0), (0.0, 0.28, 1.0, 3.0), (0.0, 0.0, 1.0, 3.0)),
        *((0.0, 0.2, 1.4, 3.0), (0.0, 0.2, 0.71, 3.0), (0.0, 0.2, 1.0, 2.14)),
    ]


def test_courses_are_compared_over_styles(script: ModuleType) -> None:
    late = script.pair(0.3, 1.0)
    lines = script.rules({script.PLAIN: [(1.2, 0.5), (1.0, 1.1)], late: [(0.475, 1.0), (0.95, 1.0)]})
    assert lines == [
        "1 1 1 1: style 1.10, caption 0.80, reached 0.75, 2 styles",
        "0.3 1 1 1: style 0.71, caption 1.00, reached 0.75, 2 styles",
    ]


def test_the_search_goes_where_the_pairs_do_not_reach(script: ModuleType) -> None:
    """A style that is there by its last quarter's weight alone, a caption by the first's."""
    asked: list[object] = []

    def measure(factors: Any) -> tuple[float, float]:
        asked.append(factors)
        first, _, _, last = factors.quarters
        return min(1.0, last / 2.6), 1.0 - first

    found = script.search(measure)
    assert found.kind == 1
    assert script.reached(*measure(found)) == 1
    assert len(asked) - 1 == len(set(asked[:-1]))


def test_quarters_are_sought_again_with_blocks(script: ModuleType) -> None:
    """Quarters alone gain nothing here, blocks a little, and quarters on top of them the rest."""

    def measure(factors: Any) -> tuple[float, float]:
        last, down = factors.quarters[3], dict(factors.blocks).get("down", 1.0)
        return 0.5 + (down < 1) * (0.2 + 0.3 * (1.35 < last < 1.45)), 1.0

    found = script.search(measure)
    assert found.kind == 2
    assert script.reached(*measure(found)) == 1


def test_the_search_ends_where_the_pairs_reach(script: ModuleType) -> None:
    asked: list[object] = []

    def measure(factors: Any) -> tuple[float, float]:
        asked.append(factors)
        return 1.0, 1.0

    assert script.search(measure) == script.PLAIN
    assert len(asked) == len(script.TRIED)


def test_blocks_factors_reach_the_card(script: ModuleType, tmp_path: Path) -> None:
    shipped = next(card for card in cards.shipped() if card.name == "ink")
    assert shipped.forms["mini"].file is not None
    shutil.copy(shipped.forms["mini"].file.with_name("ink.toml"), tmp_path)
    card = cards.read(tmp_path / "ink.toml", "medium")
    factors = script.pair(0.3, 1.25)._replace(blocks=(("down", 0.6), ("up", 1.4)))
    script.write(card, "a" * 64, "b" * 64, factors)
    script.write(card, "c" * 64, "d" * 64, factors)
    (balance,) = cards.read(tmp_path / "ink.toml", "medium").balances
    assert balance.by_block == {"down": 0.6, "up": 1.4}
    assert balance.phases == ((0.0, 0.3), (0.25, 1.25))


@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.6, 1.25)])
def test_a_card_is_written_and_written_anew(script: ModuleType, tmp_path: Path, factors: tuple[float, float]) -> None:
    shipped = next(card for card in cards.shipped() if card.name == "ink")
    assert shipped.forms["mini"].file is not None
    shutil.copy(shipped.forms["mini"].file.with_name("ink.toml"), tmp_path)
    card = cards.read(tmp_path / "ink.toml", "medium")
    script.write(card, "a" * 64, "b" * 64, script.pair(1.5, 1.5))
    script.write(card, "c" * 64, "d" * 64, script.pair(*factors))
    again = cards.read(tmp_path / "ink.toml", "medium")
    (balance,) = again.balances
    assert (balance.style, balance.accelerator) == ("c" * 64, "d" * 64)
    assert balance.phases == (((0.0, 1.0),) if factors == (1.0, 1.0) else ((0.0, 0.6), (0.25, 1.25)))
    assert {family: form.trigger_words for family, form in again.forms.items()} == {
        family: form.trigger_words for family, form in shipped.forms.items()
    }
