"""The embedded checkpoint: expanded once, whole, whatever happens; and loaded by diffusers as it is.

Nothing here depends on the weights themselves: a better `mini` may replace them.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import laur.models
from laur.core.checkpoint import Family
from laur.core.errors import CheckpointError, NotFoundError, OutputError
from laur.models import adapter_file, adapter_names, checkpoint_folder, manifest, names

PACK = Path(laur.models.__file__).parent / "mini"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a small pack in place of the real one."""
    from safetensors.numpy import save_file

    from laur.models.pack import Settings, pack

    source = tmp_path / "source"
    (source / "unet").mkdir(parents=True)
    (source / "adapters").mkdir()
    (tmp_path / "packs").mkdir()
    (source / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    weights = {"w": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float16)}
    save_file(weights, source / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(weights, source / "adapters" / "lcm_lora.safetensors")
    pack(source, tmp_path / "packs" / "mini", Settings(name="mini", licence="none", native_size=8))
    monkeypatch.setattr(laur.models, "_PACKS", tmp_path / "packs")
    monkeypatch.setenv("LAUR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def inside(cache):
    """What lies in the cache, but for the lock."""
    folder = cache / "models"
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") if folder.exists() else []


def test_it_has_a_name_and_an_adapter():
    assert names() == ("mini",)
    assert "lcm-lora-mini" in adapter_names()


def test_unknown_names_say_what_is_known():
    with pytest.raises(NotFoundError, match=r"'maxi'.*mini"):
        checkpoint_folder("maxi")
    with pytest.raises(NotFoundError, match=r"'nope'.*lcm-lora-mini"):
        adapter_file("nope")


def test_importing_it_loads_nothing_heavy():
    code = "import sys, laur.models as m; m.adapter_names(); print([h for h in ('numpy', 'torch') if h in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_shipped_pack_is_small():
    assert sum(path.stat().st_size for path in PACK.rglob("*") if path.is_file()) < 100e6


def test_it_is_expanded_once(cache, monkeypatch):
    folder = checkpoint_folder()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(laur.models, "_expand", None)
    assert checkpoint_folder() == folder
    assert adapter_file("lcm-lora-mini") == folder / "adapters" / "lcm-lora-mini.safetensors"
    assert adapter_file("lcm-lora-mini").is_file()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert inside(cache) == [folder.name]


def test_another_pack_gets_another_folder(cache):
    first = checkpoint_folder()
    file = laur.models._PACKS / "mini" / manifest.FILE
    file.write_bytes(file.read_bytes().replace(b'"none"', b'"CC0"'))
    assert checkpoint_folder() != first
    assert first.exists()


@pytest.mark.parametrize("harm", ["cut", "remove", "older", "no manifest", "a file in its place"])
def test_a_damaged_folder_is_made_again(cache, harm):
    folder = checkpoint_folder()
    before = contents(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if harm == "cut":
        os.truncate(weights, 100)
    elif harm == "remove":
        weights.unlink()
    elif harm == "older":
        (folder / manifest.FILE).write_text("{}")
    elif harm == "no manifest":
        (folder / manifest.FILE).unlink()
    else:
        folder.rename(folder.with_name("moved"))
        folder.write_text("file")
    assert contents(checkpoint_folder()) == before
    assert len(inside(cache)) == 1 + (harm == "a file in its place")


def test_what_a_killed_process_left_is_removed(cache):
    folder = checkpoint_folder()
    left = folder.with_name(f".{folder.name}.0123456789abcdef.tmp")
    folder.rename(left)
    checkpoint_folder()
    assert inside(cache) == [folder.name]


@pytest.mark.parametrize("where", ["fsync", "write_bytes", "mkdir"])
def test_a_full_disk_is_one_line_and_leaves_nothing(cache, monkeypatch, where):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os if where == "fsync" else Path, where, full)
        with pytest.raises(OutputError, match=r"No space left on device.*LAUR_CACHE") as caught:
            checkpoint_folder()
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert inside(cache) == []
    assert checkpoint_folder().exists()


def test_ctrl_c_leaves_nothing(cache, monkeypatch):
    from laur.models import expand

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(expand, "write_expanded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint_folder()
    assert inside(cache) == []


def test_a_cache_that_is_a_file_is_one_line(cache):
    cache.write_text("not a folder")
    with pytest.raises(OutputError, match="LAUR_CACHE"):
        checkpoint_folder()


@pytest.mark.parametrize("harm", ["weights", "manifest"])
def test_a_damaged_package_says_to_install_again(cache, harm):
    pack = laur.models._PACKS / "mini"
    if harm == "weights":
        os.truncate(pack / "unet.safetensors", 50)
    else:
        (pack / manifest.FILE).write_text("{}")
    with pytest.raises(CheckpointError, match="install lcm-laur again"):
        checkpoint_folder()
    assert inside(cache) == []


def test_two_processes_at_once_make_one_whole_folder(cache):
    code = (
        "import sys; from pathlib import Path; import laur.models as m\n"
        "m._PACKS = Path(sys.argv[1]); f = m.checkpoint_folder(); print(f)\n"
        "assert m.manifest.Manifest.read(f).describes(f)\n"
    )
    command = [sys.executable, "-c", code, str(laur.models._PACKS)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert folders == {str(checkpoint_folder())}
    assert len(inside(cache)) == 1


def test_the_real_pack_expands_to_what_its_manifest_says():
    """Every byte is compared while it is written."""
    folder = checkpoint_folder()
    assert manifest.Manifest.read(PACK).describes(folder)
    assert (folder / "model_index.json").is_file()


def test_diffusers_loads_the_folder_and_the_adapter_unchanged():
    from diffusers import LCMScheduler, StableDiffusionPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()
    pipe = StableDiffusionPipeline.from_pretrained(checkpoint_folder(), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.config.cross_attention_dim == pipe.text_encoder.config.hidden_size
    plain = one_picture(pipe)
    pipe.load_lora_weights(adapter_file("lcm-lora-mini"))
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    adapted = one_picture(pipe)
    assert adapted.shape == plain.shape == (64, 64, 3)
    assert np.abs(adapted - plain).mean() > 0.01


def one_picture(pipe):
    generator = torch.Generator().manual_seed(0)
    found = pipe(
        "a red fox",
        num_inference_steps=1,
        guidance_scale=1.0,
        height=64,
        width=64,
        generator=generator,
        output_type="np",
    )
    assert np.isfinite(found.images).all()
    return found.images[0]


def test_our_loader_knows_its_family_and_its_hash():
    from laur.pipeline.loading.load import load

    loaded = load("mini")
    assert loaded.info.family is Family.MINI
    assert loaded.info.sha256 == manifest.Manifest.read(PACK).sha256
    assert set(loaded.info.defaults.adapters) <= set(adapter_names())
