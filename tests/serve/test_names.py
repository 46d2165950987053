"""No way to name a file of the server: not in fields, not in a prompt's tags, not in its wildcards."""

import shutil

import pytest

from laur.core.errors import NotFoundError
from laur.core.recipe import Recipe
from laur.models import adapter_file, adapter_names
from laur.pipeline.device import choose
from laur.pipeline.engine import Engine
from laur.serve.worker.named_library import NamedLibrary
from laur.serve.worker.names import Names


@pytest.fixture(scope="module")
def engine():
    return Engine(library=NamedLibrary(Names(), choose("cpu", "float32")))


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """A file that would fit, in the working folder as well."""
    name = adapter_names()[0]
    shutil.copyfile(adapter_file(name), tmp_path / "own.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "own.safetensors"


@pytest.mark.parametrize(
    "fields",
    [
        {"adapters": ["{path}"]},
        {"style": "{path}"},
        {"prompt": "a fox <lora:{path}:1>"},
        {"prompt": "a fox <lyco:own.safetensors:1>"},
        {"prompt": "a fox <lora:{{own.safetensors|own.safetensors}}:1>"},
        {"checkpoint": "{path}"},
        {"refiner": "{path}"},
        {"checkpoint": "someone/model"},
    ],
)
def test_paths_are_no_names(engine, own_file, fields):
    def put(value):
        return value.format(path=own_file) if isinstance(value, str) else [put(item) for item in value]

    recipe = Recipe(**{"prompt": "a fox", "seed": 1, **{name: put(value) for name, value in fields.items()}})
    with pytest.raises(NotFoundError, match="here; there are"):
        engine.resolve(recipe)


def test_names_are(engine):
    name = adapter_names()[0]
    assert engine.resolve(Recipe(prompt=f"a fox <lora:{name}:0.5>", seed=1)).recipe.adapters[0].name == name


def test_a_broken_card_of_the_users_ends_no_service(tmp_path, monkeypatch):
    monkeypatch.setenv("LAUR_HOME", str(tmp_path))
    (tmp_path / "styles").mkdir()
    (tmp_path / "styles" / "own.toml").write_text("no card")
    broken = Names().adapters()
    assert adapter_names()[0] in broken
    (tmp_path / "styles" / "own.toml").unlink()
    assert set(broken) < set(Names().adapters())
