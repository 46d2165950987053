"""Names, hub ids and hashes."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from helpers.tiny import tiny_folder
from laur.core.errors import CheckpointError, NotFoundError
from laur.pipeline.loading import hashes
from laur.pipeline.loading.hashes import weights_sha256
from laur.pipeline.loading.hub import choose_files
from laur.pipeline.loading.load import load
from laur.pipeline.loading.names import Kind, known, locate, user_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's models folder."""
    monkeypatch.setenv("LAUR_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "models"
    folder.mkdir(parents=True)
    return folder


def weights(path: Path, value: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.full((8,), value)}, path)
    return path


def test_models_of_the_user_have_names(home: Path) -> None:
    dream = weights(home / "dream.safetensors")
    deep = weights(home / "sdxl" / "deep.safetensors")
    (home / "mine").mkdir()
    (home / "mine" / "model_index.json").write_text("{}")
    weights(home / "mine" / "unet.safetensors")
    (home / "notes.txt").write_text("no model")
    assert user_folder() == home
    assert {entry.name: entry.kind for entry in known()} == {
        "mini": Kind.EMBEDDED,
        "dream": Kind.FILE,
        "deep": Kind.FILE,
        "mine": Kind.FOLDER,
    }
    assert (locate("dream").path, locate("dream.safetensors").path, locate("deep").path) == (dream, dream, deep)
    assert locate("mine").kind is Kind.FOLDER


def test_an_unknown_name_says_what_is_known(home: Path) -> None:
    weights(home / "dreamshaper.safetensors")
    with pytest.raises(
        NotFoundError, match=r"no model is called 'dreamshapr'; did you mean dreamshaper\? known are mini"
    ):
        locate("dreamshapr")
    with pytest.raises(NotFoundError, match=r"no model is called 'x'; known are mini, dreamshaper; or give a"):
        locate("x")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        "a/b/c",
        "/nowhere/at/all",
        "missing.safetensors",
        "missing.ckpt",
        "~nobody-here/x",
        "a\0b",
        "x" * 5_000,
    ],
)
def test_what_cannot_be_a_model_is_not_found(name: str) -> None:
    with pytest.raises(NotFoundError) as error:
        locate(name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_path_that_looks_like_a_hub_id_is_a_path_where_the_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(NotFoundError, match="there is no model at models/dream; check the path"):
        locate("models/dream")


def test_something_else_than_files_and_folders_is_refused() -> None:
    with pytest.raises(CheckpointError, match="is neither a folder nor a file"):
        locate(os.devnull)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    with pytest.raises(CheckpointError, match="permission denied"):
        locate(str(tmp_path / "shut" / "model"))


# hub ids; the tests run with HF_HUB_OFFLINE


def test_a_hub_id_offline_is_one_clear_line() -> None:
    with pytest.raises(CheckpointError) as error:
        load("laur-tests/not-on-this-machine")
    assert str(error.value) == (
        "laur-tests/not-on-this-machine is not on this machine and cannot be fetched (HF_HUB_OFFLINE is set); "
        "go online, or download it elsewhere and give its folder"
    )


def test_what_the_hub_gave_before_is_used_without_asking_it(tmp_path: Path) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = Path(HF_HUB_CACHE) / "models--laur-tests--cached"
    shutil.rmtree(cache, ignore_errors=True)
    try:
        (cache / "refs").mkdir(parents=True)
        (cache / "refs" / "main").write_text(commit)
        snapshot = tiny_folder("sd1", cache / "snapshots" / commit, dtype=torch.float16, variant="fp16")
        located = locate("laur-tests/cached")
        assert (located.kind, located.path.resolve()) == (Kind.HUB, snapshot.resolve())
        assert load("laur-tests/cached").info.name == "laur-tests/cached"
        other = {"_class_name": "FluxPipeline", "unet": [None, None]}
        index = json.loads((snapshot / "model_index.json").read_text())
        (snapshot / "model_index.json").write_text(json.dumps(index | other))
        with pytest.raises(CheckpointError, match=r"^laur-tests/cached is a FluxPipeline"):
            load("laur-tests/cached")
        (snapshot / "model_index.json").write_text(json.dumps(index))
        (snapshot / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
        with pytest.raises(CheckpointError, match="cannot be fetched"):
            locate("laur-tests/cached")
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def test_of_a_repository_only_what_is_needed_is_fetched() -> None:
    files = [
        "README.md",
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/flax_model.msgpack",
        "text_encoder_2/model.fp16-00001-of-00002.safetensors",
        "text_encoder_2/model.fp16-00002-of-00002.safetensors",
        "text_encoder_2/model.safetensors.index.fp16.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "safety_checker/model.safetensors",
        "big.safetensors",
    ]
    assert set(choose_files(files, "a/b")) == {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/model.fp16-00001-of-00002.safetensors",
        "text_encoder_2/model.fp16-00002-of-00002.safetensors",
        "text_encoder_2/model.safetensors.index.fp16.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    }
    assert choose_files(["README.md", "dream.safetensors"], "a/b") == ["dream.safetensors"]
    with pytest.raises(CheckpointError, match=r"a/b is no diffusers folder and has 2 \.safetensors files"):
        choose_files(["x.safetensors", "y.safetensors"], "a/b")
    with pytest.raises(CheckpointError, match="holds pickles only"):
        choose_files(["model_index.json", "unet/diffusion_pytorch_model.bin"], "a/b")


# hashes


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAUR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hashes.json"


def test_a_files_hash_is_its_sha256(tmp_path: Path, cache: Path) -> None:
    path = weights(tmp_path / "a.safetensors")
    assert weights_sha256({"": [path]}) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_hashes_are_remembered_until_the_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = weights(tmp_path / "a.safetensors")
    first = weights_sha256({"": [path]})
    assert list(json.loads(cache.read_text())) == [str(path.resolve())]
    with monkeypatch.context() as patch:
        patch.setattr(hashes, "_sha256", lambda path: pytest.fail("hashed again"))
        assert weights_sha256({"": [path]}) == first
    weights(path, 1.0)
    assert weights_sha256({"": [path]}) != first


@pytest.mark.parametrize("content", ["", "{", "[]", '{"PATH": 3}', '{"PATH": [1, 2, "short"]}'])
def test_a_damaged_memory_is_forgotten(tmp_path: Path, cache: Path, content: str) -> None:
    path = weights(tmp_path / "a.safetensors")
    cache.parent.mkdir()
    cache.write_text(content.replace("PATH", str(path)))
    assert weights_sha256({"": [path]}) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = weights(tmp_path / "a.safetensors")
    monkeypatch.setenv("LAUR_CACHE", str(path / "no folder"))
    assert weights_sha256({"": [path]}) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folders_hash_is_of_its_content_and_not_of_file_names(tmp_path: Path, cache: Path) -> None:
    unet, vae = weights(tmp_path / "u.safetensors", 1.0), weights(tmp_path / "v.safetensors", 2.0)
    both = weights_sha256({"unet": [unet], "vae": [vae]})
    renamed = unet.rename(tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    assert weights_sha256({"vae": [vae], "unet": [renamed]}) == both
    assert weights_sha256({"unet": [vae], "vae": [renamed]}) != both
