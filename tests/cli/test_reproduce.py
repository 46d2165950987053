"""A picture made again from its own file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laur.models import adapter_file
from laur.render.embedded import make_embedded
from laur.render.metadata import read
from laur.render.registry import get

SMALL = ["--size", "64x64", "--steps", "2", "--seed", "7"]


@pytest.fixture
def fox(laur) -> Path:
    assert laur("generate", "a red fox", *SMALL, "--out", "fox.png").code == 0
    return Path("fox.png")


def rewrite(path: Path, **changes) -> None:
    """The same pixels with another recipe in the file."""
    found = read(path)
    assert found.recipe is not None
    assert found.provenance is not None
    embedded = make_embedded(found.recipe.replace(**changes), found.provenance, found.pixels)
    path.write_bytes(get("png").render(Image.fromarray(found.pixels), embedded))


def test_identical(laur, fox) -> None:
    outcome = laur("reproduce", fox)
    assert (outcome.code, outcome.out, outcome.err) == (0, "identical: every pixel is the same\n", "")


def test_a_lossy_file_is_compared_after_the_same_encoding(laur) -> None:
    laur("generate", "a red fox", *SMALL, "--out", "fox.jpg")
    outcome = laur("reproduce", "fox.jpg")
    assert outcome.code == 0
    assert outcome.out.startswith("identical")


def test_other_precision_is_close_and_said(laur, fox) -> None:
    recorded = read(fox).provenance.dtype
    other = "float32" if recorded != "float32" else "bfloat16"
    outcome = laur("reproduce", fox, "--dtype", other, "--json", "--out", "again.png")
    values = json.loads(outcome.out)
    assert values["likeness"] in {"identical", "close"}
    assert values["path"] == "again.png"
    assert any(recorded in note and other in note for note in values["warnings"])
    assert read(Path("again.png")).provenance.dtype == other


def test_a_style_that_has_moved_is_found_by_its_content(laur) -> None:
    shutil.copyfile(adapter_file("lcm-lora-mini"), "ink.safetensors")
    assert laur("generate", "a red fox", *SMALL, "--style", "ink.safetensors", "--out", "fox.png").code == 0
    Path("ink.safetensors").rename("moved.safetensors")
    outcome = laur("reproduce", "fox.png", "--adapter", "moved.safetensors")
    assert (outcome.code, outcome.out) == (0, "identical: every pixel is the same\n")


def test_another_seed_is_different(laur, fox) -> None:
    rewrite(fox, seed=8)
    outcome = laur("reproduce", fox)
    assert outcome.code == 1
    assert outcome.out.startswith("different: PSNR")


def test_no_metadata(laur) -> None:
    laur("generate", "a red fox", *SMALL, "--no-metadata", "--out", "fox.png")
    outcome = laur("reproduce", "fox.png")
    assert outcome.code == 2
    assert (
        outcome.err == "laur: fox.png does not say how it was made: it holds neither a recipe of Laur nor parameters\n"
    )


def test_everything_that_is_missing_is_named(laur, fox) -> None:
    recipe = read(fox).recipe
    from laur.core.recipe import AdapterRef

    ink = AdapterRef(name="ink", weight=0.5, sha256="f" * 64)
    rewrite(fox, checkpoint="./gone.safetensors", checkpoint_sha256="e" * 64, adapters=(*recipe.adapters, ink))
    outcome = laur("reproduce", fox)
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert "model ./gone.safetensors (AutoV2 eeeeeeeeee)" in outcome.err
    assert "adapter ink (AutoV2 ffffffffff)" in outcome.err
    assert "lcm-lora-mini" not in outcome.err


def test_another_content_under_the_name(laur, fox) -> None:
    rewrite(fox, checkpoint_sha256="e" * 64)
    refused = laur("reproduce", fox)
    assert refused.code == 2
    assert "model mini (AutoV2 eeeeeeeeee)" in refused.err
    assert "--anyway" in refused.err
    anyway = laur("reproduce", fox, "--anyway")
    assert (anyway.code, anyway.out) == (0, "identical: every pixel is the same\n")


def test_an_adapter_is_found_by_content_under_another_name(laur, fox) -> None:
    recipe = read(fox).recipe
    from dataclasses import replace

    path = laur("adapters", "path", "lcm-lora-mini").out.strip()
    rewrite(fox, adapters=tuple(replace(ref, name="/elsewhere/accelerator.safetensors") for ref in recipe.adapters))
    assert laur("reproduce", fox).code == 2
    assert laur("reproduce", fox, "--adapter", path).code == 0


def test_parameters_of_another_program(laur, fox) -> None:
    found = read(fox)
    parameters = found.parameters.replace("RNG: CPU, ", "")
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", parameters)
    Image.fromarray(found.pixels).save("other.png", pnginfo=info)
    outcome = laur("reproduce", "other.png")
    assert outcome.code == 0
    assert "A1111's parameters alone" in outcome.err
    assert "noise from torch's CPU generator" in outcome.err


def test_parameters_that_say_too_little(laur) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "a fox\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("other.png", pnginfo=info)
    outcome = laur("reproduce", "other.png")
    assert outcome.code == 2
    assert "sampler 'Euler a' is none of" in outcome.err
