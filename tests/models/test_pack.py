"""Any folder of `mini`'s format is packed, and expands to the same files."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from laur.core.checkpoint import Defaults
from laur.models.expand import expand
from laur.models.manifest import FILE, Manifest
from laur.models.pack import Settings, pack
from laur.pipeline.loading.hashes import weights_sha256

SETTINGS = Settings(name="tiny", licence="none", native_size=64, defaults=Defaults(steps=9))
WEIGHTS = {
    "unet/diffusion_pytorch_model": {"conv.weight": (64, 32, 3, 3), "conv.bias": (64,)},
    "vae/diffusion_pytorch_model": {"layer.weight": (64, 64)},
    "text_encoder/model": {"words.weight": (10_001, 8), "layer.weight": (64, 64), "scale": ()},
    "adapters/lcm_lora": {"a.lora_A.weight": (16, 288), "a.lora_B.weight": (64, 16)},
}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of four files, and some that do not belong to it."""
    where = tmp_path / "from"
    random = np.random.default_rng(0)
    for path, shapes in WEIGHTS.items():
        file = where / f"{path}.safetensors"
        file.parent.mkdir(parents=True)
        weights = {name: np.asarray(random.standard_normal(shape), np.float16) for name, shape in shapes.items()}
        save_file(weights, file, {"format": "pt"})
        (file.parent / "config.json").write_text(f'{{"part": "{path}"}}\n')
    parts = {"unet": ["diffusers", "X"], "vae": ["diffusers", "X"], "text_encoder": ["transformers", "X"]}
    (where / "model_index.json").write_text(json.dumps(parts | {"image_encoder": [None, None], "_class_name": "P"}))
    (where / "README.md").write_text("not part of it")
    (where / "unet" / "long.json").write_text(json.dumps(list(range(20_000))))
    return where


def test_the_expanded_folder_holds_the_same_tensors_and_configs(folder, tmp_path):
    files = pack(folder, tmp_path / "pack", SETTINGS)
    (tmp_path / "out").mkdir()
    expand(tmp_path / "pack", tmp_path / "out")
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert found == sorted([*files, FILE])
    assert "README.md" not in found
    for path in files:
        before = folder / path.replace("adapters/lcm-lora-tiny", "adapters/lcm_lora")
        if path.endswith(".json"):
            assert (tmp_path / "out" / path).read_bytes() == before.read_bytes()
            continue
        expected, got = load_file(before), load_file(tmp_path / "out" / path)
        assert got.keys() == expected.keys()
        for name, values in expected.items():
            assert got[name].dtype == np.float16
            assert got[name].shape == values.shape
            np.testing.assert_allclose(got[name].astype("f4"), values.astype("f4"), atol=0.03)


def test_the_manifest_says_what_is_exact(folder, tmp_path):
    files = pack(folder, tmp_path / "pack", SETTINGS)
    rounded = {path for path, entry in files.items() if not entry.exact}
    assert rounded == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "adapters/lcm-lora-tiny.safetensors",
    }


def test_a_network_packed_again_after_it_was_expanded_is_exact(folder, tmp_path):
    pack(folder, tmp_path / "pack", SETTINGS)
    (tmp_path / "out").mkdir()
    expand(tmp_path / "pack", tmp_path / "out")
    again = pack(tmp_path / "out", tmp_path / "again", SETTINGS)
    assert all(entry.exact for entry in again.values())


def test_the_manifest_tells_name_defaults_and_hashes(folder, tmp_path):
    pack(folder, tmp_path / "pack", SETTINGS)
    (tmp_path / "out").mkdir()
    expand(tmp_path / "pack", tmp_path / "out")
    raw = (tmp_path / "out" / FILE).read_bytes()
    assert raw == (tmp_path / "pack" / FILE).read_bytes()
    fields = json.loads(raw)
    assert (fields["name"], fields["licence"], fields["native_size"]) == ("tiny", "none", 64)
    assert Defaults(**fields["defaults"]).steps == 9
    assert fields["defaults"]["adapters"] == ["lcm-lora-tiny"]
    manifest = Manifest.parse(raw)
    for path, entry in manifest.files.items():
        assert hashlib.sha256((tmp_path / "out" / path).read_bytes()).hexdigest() == entry.sha256


def test_the_hash_of_the_weights_is_the_one_that_the_loader_works_out(folder, tmp_path):
    pack(folder, tmp_path / "pack", SETTINGS)
    (tmp_path / "out").mkdir()
    expand(tmp_path / "pack", tmp_path / "out")
    weights = {part: list((tmp_path / "out" / part).glob("*.safetensors")) for part in ("unet", "vae", "text_encoder")}
    assert Manifest.read(tmp_path / "pack").sha256 == weights_sha256(weights)


def test_packing_is_repeatable(folder, tmp_path):
    pack(folder, tmp_path / "one", SETTINGS)
    pack(folder, tmp_path / "two", SETTINGS)
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()


def test_a_folder_that_is_no_checkpoint_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        pack(tmp_path, tmp_path / "pack", SETTINGS)
    assert not (tmp_path / "pack").exists()


def test_full_precision_and_two_weight_files_are_refused(folder, tmp_path):
    save_file({"w": np.zeros((64, 64), np.float32)}, folder / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="half precision"):
        pack(folder, tmp_path / "pack", SETTINGS)
    save_file({"w": np.zeros((4, 4), np.float16)}, folder / "vae" / "other.safetensors")
    with pytest.raises(ValueError, match="more than one"):
        pack(folder, tmp_path / "pack", SETTINGS)
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize("harm", ["cut", "change", "remove", "config"])
def test_a_damaged_pack_is_noticed(folder, tmp_path, harm):
    pack(folder, tmp_path / "pack", SETTINGS)
    file = tmp_path / "pack" / "unet.safetensors"
    data = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(data[:-100])
    elif harm == "change":
        data[len(data) // 2] ^= 255
        file.write_bytes(data)
    elif harm == "remove":
        file.unlink()
    else:
        (tmp_path / "pack" / "unet" / "config.json").write_text("{}")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"damaged|missing"):
        expand(tmp_path / "pack", tmp_path / "out")


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"format": "laur-pack/9"}', b'{"format": "laur-pack/1"}', b"\xff"]
)
def test_a_damaged_manifest_is_a_value_error(raw):
    with pytest.raises(ValueError):
        Manifest.parse(raw)
