"""The commands that only look: models, adapters, inspect, doctor, bench."""

import json
from pathlib import Path

from laur.cli.checks import Check, examine


def test_models_are_listed_and_have_a_path(laur) -> None:
    listed = laur("models")
    assert listed.code == 0
    assert "mini" in listed.out
    path = laur("models", "path", "mini")
    assert path.out.count("\n") == 1
    assert (Path(path.out.strip()) / "model_index.json").is_file()
    assert "mini" in {row["name"] for row in json.loads(laur("models", "--json").out)["models"]}


def test_adapters_are_listed_and_have_a_path(laur) -> None:
    assert "lcm-lora-mini" in laur("adapters").out
    path = laur("adapters", "path", "lcm-lora-mini")
    assert path.out.count("\n") == 1
    assert Path(path.out.strip()).suffix == ".safetensors"
    rows = json.loads(laur("adapters", "--json").out)["adapters"]
    assert {"name": "lcm-lora-mini", "origin": "embedded", "path": None} in rows


def test_inspect_a_checkpoint(laur) -> None:
    values = json.loads(laur("inspect", "mini", "--json").out)
    assert values["kind"] == "checkpoint"
    assert values["prediction"] in {"epsilon", "v_prediction", "sample"}
    assert len(values["sha256"]) == 64
    table = laur("inspect", laur("models", "path", "mini").out.strip())
    assert table.code == 0
    assert "prediction" in table.out


def test_inspect_an_adapter_by_name_and_by_file(laur) -> None:
    path = laur("adapters", "path", "lcm-lora-mini").out.strip()
    for name in ("lcm-lora-mini", path):
        values = json.loads(laur("inspect", name, "--json", "--model", "mini").out)
        assert values["kind"] == "adapter"
        assert values["layers"]["unet"] > 0
        assert values["recommends"]["accelerates"] is True
        assert f"{values['layers']['unet']} layers placed" in values["fits"]


def test_inspect_a_picture(laur) -> None:
    laur("generate", "a red fox", "--seed", 7, "--size", "64x48", "--steps", 1, "--out", "fox.png")
    values = json.loads(laur("inspect", "fox.png", "--json").out)
    assert values["kind"] == "picture"
    assert values["size"] == "64x48"
    assert values["recipe"]["prompt"] == "a red fox"
    assert values["pixels"] == "exactly those that were drawn"
    assert "a red fox" in laur("inspect", "fox.png").out


def test_doctor_finds_a_machine_that_can_draw(laur) -> None:
    outcome = laur("doctor", "--draw", "--json")
    assert outcome.code == 0, outcome.out
    values = json.loads(outcome.out)
    assert values["able"] is True
    states = {check["name"]: check["state"] for check in values["checks"]}
    assert states["drawing"] == "ok"
    assert states["model mini"] == "ok"


def test_doctor_exits_with_1_where_something_is_broken(laur, monkeypatch) -> None:
    monkeypatch.setattr("laur.cli.checks._mini", lambda: Check("model mini", "fault", "broken", "mend it"))
    outcome = laur("doctor")
    assert outcome.code == 1
    assert "mend it" in outcome.out
    assert "cannot draw yet" in outcome.out


def test_an_extra_that_is_missing_comes_with_its_command(monkeypatch) -> None:
    monkeypatch.setattr(
        "laur.cli.checks._lacking", lambda extra: iter(["openvino>=2025.4"] if extra == "bench" else [])
    )
    found = {check.name: check for check in examine("cpu", None, draw=False)}
    assert found["extra bench"].state == "note"
    assert "openvino" in found["extra bench"].detail
    assert found["extra bench"].remedy.endswith('-m pip install "lcm-laur[bench]"')


def test_bench_measures_every_part(laur) -> None:
    outcome = laur("bench", "--size", "64", "--steps", 1, "--repeats", 1, "--batch", 2, "--json")
    assert outcome.code == 0, outcome.err
    values = json.loads(outcome.out)
    for part in ("step", "decode", "one", "many", "first_picture", "pictures_per_second"):
        assert values[part] > 0
    assert "pictures" not in laur("bench", "--size", "64", "--steps", 1, "--repeats", 1, "--batch", 2).err
