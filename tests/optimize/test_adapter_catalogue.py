from __future__ import annotations

import pytest
import torch
from lora_kit import write

import laur.models
from laur.core.errors import AdapterError, NotFoundError
from laur.optimize import ADAPTERS, BaseAdapter, Recommendation
from laur.optimize.catalogue import file_of, find, known, user_folder
from laur.optimize.lcm_lora import LCM_LORA
from laur.optimize.lora_file import LoraFile

STATE = {"unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3), "unet.conv_in.lora_B.weight": torch.ones(32, 2, 1, 1)}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user's folder of their own, and a working directory that is not it."""
    monkeypatch.setenv("LAUR_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    folder = user_folder()
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    path = write(tmp_path / "embedded.safetensors", STATE)
    monkeypatch.setattr(laur.models, "adapter_file", lambda name: path, raising=False)
    return path


def test_embedded_registered_and_user_adapters_are_found_by_name(home, embedded):
    ADAPTERS.register("test-catalogue-code", CodeAdapter)
    write(home / "oil.safetensors", STATE)
    (home / "ink").mkdir()
    write(home / "ink" / "pytorch_lora_weights.safetensors", STATE)
    assert isinstance(find("test-catalogue-code"), CodeAdapter)
    assert find("lcm-lora-mini").name == "lcm-lora-mini"
    assert find("lcm-lora-mini").recommends == LCM_LORA
    oil, ink = find("oil"), find("ink")
    assert isinstance(oil, LoraFile) and oil.path == home / "oil.safetensors" and oil.name == "oil"
    assert isinstance(ink, LoraFile) and ink.path.parent == home / "ink"
    origins = {entry.name: entry.origin for entry in known()}
    assert origins["test-catalogue-code"] == "registered"
    assert origins["lcm-lora-mini"] == "embedded"
    assert origins["oil"] == origins["ink"] == "user"
    assert file_of("oil") == home / "oil.safetensors"
    assert file_of("lcm-lora-mini") == embedded
    with pytest.raises(NotFoundError, match="is code, not a file"):
        file_of("test-catalogue-code")


class CodeAdapter(BaseAdapter):
    """Found by name."""


def test_files_are_found_by_path(tmp_path):
    path = write(tmp_path / "work" / "pencil.safetensors", STATE)
    for written in ("pencil.safetensors", str(path), "./pencil.safetensors", "../work/pencil.safetensors"):
        adapter = find(written)
        assert isinstance(adapter, LoraFile) and adapter.path.samefile(path)
        assert adapter.name == "pencil"
    assert len({find(str(path)).sha256, find("pencil.safetensors").sha256}) == 1


def test_unknown_names_and_files(tmp_path, home):
    write(home / "oil.safetensors", STATE)
    with pytest.raises(NotFoundError, match=r"no adapter is called 'lcm-lora-mni'; did you mean lcm-lora-mini\?"):
        find("lcm-lora-mni")
    with pytest.raises(NotFoundError, match=r"known are .*lcm-lora-mini.* oil"):
        find("xyzzy")
    for missing in (
        "gone.safetensors",
        "folder/gone",
        "/nowhere/gone.ckpt",
        "someone/some-lora",
        "~nobody-here/a",
        "x" * 4000,
    ):
        with pytest.raises(NotFoundError, match=f"there is no adapter file {missing[:150]}"):
            find(missing)
    (tmp_path / "work" / "xyzzy").mkdir()  # a folder that happens to have the name
    with pytest.raises(NotFoundError, match="no adapter is called 'xyzzy'"):
        find("xyzzy")
    with pytest.raises(AdapterError, match="holds neither pytorch_lora_weights"):
        find("./xyzzy/../xyzzy")


def test_a_missing_user_folder_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("LAUR_HOME", str(tmp_path / "nowhere"))
    assert {entry.origin for entry in known()} <= {"registered", "embedded"}


@pytest.mark.parametrize(
    "name",
    [
        "lcm_lora.safetensors",
        "LCM-LoRA-SDXL.safetensors",
        "lcm-lora-sdv1-5/pytorch_lora_weights.safetensors",
        "a_lcm.safetensors",
    ],
)
def test_lcm_lora_is_recognised_by_its_name(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    assert find(str(write(path, STATE))).recommends == Recommendation(
        sampler="lcm", steps=4, guidance=1.0, accelerates=True
    )


@pytest.mark.parametrize("name", ["calcmap.safetensors", "oil.safetensors", "lcmx.safetensors"])
def test_other_names_are_not_taken_for_it(name, tmp_path):
    assert find(str(write(tmp_path / name, STATE))).recommends == Recommendation()


def test_metadata_recommends(tmp_path):
    title = write(tmp_path / "a.safetensors", STATE, {"modelspec.title": "LCM LoRA for SD 1.5"})
    assert find(str(title)).recommends == LCM_LORA
    words = write(tmp_path / "b.safetensors", STATE, {"modelspec.trigger_phrase": "oil painting, impasto"})
    assert find(str(words)).recommends.trigger_words == ("oil painting", "impasto")
    own = '{"sampler": "tcd", "timesteps": [999, 499], "steps": 2, "accelerates": true, "later": 1, "guidance": null}'
    exact = find(str(write(tmp_path / "lcm.safetensors", STATE, {"laur.recommends": own}))).recommends
    assert exact == Recommendation(sampler="tcd", timesteps=(999, 499), steps=2, accelerates=True)
    for bad in ("no", "[]", '{"steps": "many"}', '{"timesteps": 3}'):
        with pytest.raises(AdapterError, match=r"'laur.recommends' of c.safetensors cannot be read"):
            find(str(write(tmp_path / "c.safetensors", STATE, {"laur.recommends": bad})))
