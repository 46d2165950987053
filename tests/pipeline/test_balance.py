"""`balance="style"`: measured weights from a card, the rule for others, and recipes that are never weighed twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from laur.core.errors import AdapterError, RecipeError
from laur.core.recipe import AdapterRef, Recipe
from laur.pipeline.balance import RULE, measured
from laur.pipeline.engine import Engine
from laur.style import cards

CARD = """words = "hatching"

[mini]
file = "hatched.safetensors"
trigger_words = ["hatched drawing"]
weight = 0.8
"""
SMALL = {"prompt": "a red fox", "seed": 7, "steps": 4, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def home(engine32: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A style of a little noise in each attention layer."""
    root = tmp_path_factory.mktemp("balance")
    draw = torch.Generator().manual_seed(1)
    state: dict[str, torch.Tensor] = {}
    for name, layer in engine32.library.layers(engine32.library.checkpoint("mini").key).items():
        if ".attn" in name and name.endswith("to_q"):
            out, inner = layer.weight
            state[f"{name}.lora_A.weight"] = torch.randn(2, inner, generator=draw) * (inner * 2) ** -0.5
            state[f"{name}.lora_B.weight"] = torch.randn(out, 2, generator=draw) * 0.05
    (root / "styles").mkdir()
    save_file(state, root / "styles" / "hatched.safetensors")
    (root / "styles" / "hatched.toml").write_text(CARD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAUR_HOME", str(root))
        yield root


@pytest.fixture
def measured_card(home: Path, engine32: Engine) -> Iterator[None]:
    """The card with weights that were found for its file and mini's LCM-LoRA."""
    style, fast = (engine32.library.adapter(name).sha256 for name in ("hatched", "lcm-lora-mini"))
    card = home / "styles" / "hatched.toml"
    weights = "phases = [[0, 1.5], [0.25, 1.1]]\nby_block = {up = 1.2}\n"
    card.write_text(f'{CARD}\n[[balance]]\nstyle = "{style}"\naccelerator = "{fast}"\n{weights}')
    yield
    card.write_text(CARD)


def filled(engine: Engine, **fields: object) -> Recipe:
    return engine.resolve(Recipe.from_dict({**SMALL, "balance": "style", **fields})).recipe


def test_a_style_that_was_measured_gets_its_weights(engine32: Engine, measured_card: None) -> None:
    found = filled(engine32, style="hatched")
    fast, style = found.adapters or ()
    assert (fast.weight, fast.phases) == (1.0, None)
    assert style.weight == 0.8
    assert style.phases == ((0.0, 1.5), (0.25, 1.1))
    assert dict(style.by_block or {}) == {"up": 1.2}
    assert found.prompt == "a red fox, hatched drawing"


def test_a_style_may_ask_for_guidance(engine32: Engine, measured_card: None, home: Path) -> None:
    card = home / "styles" / "hatched.toml"
    card.write_text(card.read_text() + "guidance = 1.5\n")
    found = filled(engine32, style="hatched")
    assert found.guidance == 1.5
    assert engine32.resolve(found).recipe == found
    assert filled(engine32, style="hatched", guidance=1.2).guidance == 1.2, "what is asked for holds"
    plain = engine32.resolve(Recipe.from_dict({**SMALL, "style": "hatched"})).recipe
    assert plain.guidance == 1.0, "without balance as ever"


def test_a_filled_recipe_is_not_weighed_again(engine32: Engine, measured_card: None, home: Path) -> None:
    found = filled(engine32, style="hatched")
    assert engine32.resolve(found).recipe == found
    (home / "styles" / "hatched.toml").write_text(CARD)  # the card has changed, the recipe has not
    assert engine32.resolve(found).recipe == found
    opened = found.replace(
        prompt="a tree", adapters=tuple(AdapterRef(**{**ref.to_dict(), "sha256": None}) for ref in found.adapters or ())
    )
    assert [ref.phases for ref in engine32.resolve(opened).recipe.adapters or ()] == [
        ref.phases for ref in found.adapters or ()
    ]


def test_another_style_in_a_filled_recipe_is_weighed(engine32: Engine, measured_card: None, home: Path) -> None:
    first = filled(engine32, style="hatched")
    other = str(home / "quiet.safetensors")
    if not Path(other).exists():
        save_file(load_file(home / "styles" / "hatched.safetensors"), other, metadata={"another": "file"})
    changed = first.replace(
        style=other, adapters=(first.adapters or ())[:1]
    )  # as `laur generate --recipe … --style` does
    fast, style = engine32.resolve(changed).recipe.adapters or ()
    assert (fast.phases, style.phases) == (None, RULE)


def test_what_is_drawn_is_what_the_weights_say(engine32: Engine, measured_card: None) -> None:
    balanced = engine32.resolve(Recipe.from_dict({**SMALL, "balance": "style", "style": "hatched"}))
    by_hand = AdapterRef(name="hatched", weight=0.8, phases=((0.0, 1.5), (0.25, 1.1)), by_block={"up": 1.2})
    plain = Recipe.from_dict({**SMALL, "prompt": "a red fox, hatched drawing", "adapters": ["lcm-lora-mini", by_hand]})
    first, second = (engine32.pictures([job])[0].pixels for job in (balanced, engine32.resolve(plain)))
    assert (first == second).all()
    unweighed = engine32.pictures([Recipe.from_dict({**SMALL, "style": "hatched"})])[0].pixels
    assert (first != unweighed).any()


def test_weights_are_for_these_two_files_alone(measured_card: None, engine32: Engine) -> None:
    style, fast = (engine32.library.adapter(name).sha256 for name in ("hatched", "lcm-lora-mini"))
    assert measured("hatched", style, fast) is not None
    assert measured("hatched", "0" * 64, fast) is None
    assert measured("hatched", style, "0" * 64) is None
    assert measured("no-such-style", style, fast) is None


def test_others_go_by_the_rule(engine32: Engine, home: Path) -> None:
    found = filled(engine32, style="hatched")
    assert (found.adapters or ())[1].phases == RULE
    assert engine32.resolve(found).recipe == found


def test_what_is_weighed_by_hand_stays(engine32: Engine, home: Path) -> None:
    for text in ("hatched:0.2,0.9@0.5", "hatched:0.7:mid=0", "hatched@..0.5"):
        found = filled(engine32, adapters=[text])
        ref, asked = (found.adapters or ())[1], AdapterRef.parse(text)
        assert (ref.weight, ref.phases, ref.by_block, ref.steps) == (
            asked.weight,
            asked.phases,
            asked.by_block,
            asked.steps,
        )


def test_nothing_to_weigh_is_told(engine32: Engine, home: Path) -> None:
    assert any("without a style" in text for text in engine32.resolve(Recipe(prompt="x", balance="style")).warnings)
    slow = Recipe(prompt="x", balance="style", style="hatched", sampler="ddim", steps=4)
    found = engine32.resolve(slow)
    assert any("without an accelerator" in text for text in found.warnings)
    assert all(ref.phases is None for ref in found.recipe.adapters or ())


def test_recipes_without_it_are_hashed_as_before() -> None:
    plain = Recipe(prompt="x")
    assert "balance" not in plain.to_dict()
    assert plain.hash != plain.replace(balance="style").hash
    assert Recipe.from_json(plain.replace(balance="style").to_json()).balance == "style"
    with pytest.raises(RecipeError, match="balance 'words' is unknown"):
        Recipe(prompt="x", balance="words")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[[balance]]\nstyle = "a"\n', "accelerator"),
        ('[[balance]]\nstyle = "a"\naccelerator = "b"\nweight = 2\n', "weight"),
        ('[[balance]]\nstyle = "a"\naccelerator = "b"\nphases = [[0.5, 1], [0.2, 1]]\n', "phases begin"),
        ('[[balance]]\nstyle = "a"\naccelerator = "b"\nby_block = {roof = 2}\n', "roof"),
        ('[[balance]]\nstyle = "a"\naccelerator = "b"\nguidance = 0.5\n', "guidance"),
        ('[[balance]]\nstyle = "a"\naccelerator = "b"\nguidance = "much"\n', "guidance"),
        ("x = " + "[" * 20_000, "broken"),
        ("[mini]\nweight = 1" + "0" * 400, "weight"),
        ("[mini]\nweight = nan", "weight"),
        ("balance = [1]\n", "tables"),
        ("balance = 3\n", "broken"),
    ],
)
def test_broken_cards_are_one_line(tmp_path: Path, table: str, said: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(table)
    with pytest.raises(AdapterError, match=said) as error:
        cards.read(file, "own")
    assert "\n" not in str(error.value)
