"""Files that are no checkpoint, or a broken one: one plain line each, never a stack trace."""

import json
import random
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny import tiny_folder, tiny_parts, tiny_single_file
from laur.core.errors import CheckpointError, LaurError
from laur.pipeline.loading.load import load

UNET = "model.diffusion_model."
HALF = torch.float16


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_single_file("sd1", tmp_path_factory.mktemp("whole") / "whole.safetensors", dtype=HALF)


@pytest.fixture
def folder(tmp_path: Path, whole_folder: Path) -> Path:
    """A copy to be spoilt; weights are linked, so replace them and never write into them."""
    shutil.copytree(whole_folder, tmp_path / "model", copy_function=link)
    return tmp_path / "model"


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd1", tmp_path_factory.mktemp("folder") / "model", dtype=HALF)


def link(source: str, target: str) -> None:
    if source.endswith(".json"):
        shutil.copy(source, target)
    else:
        Path(target).symlink_to(Path(source).resolve())


def refusal(path: Path, **options: str) -> str:
    """The one line that a checkpoint is refused with, when it is named or when its networks are asked for."""
    with pytest.raises(CheckpointError) as error:
        loaded = load(str(path), **options)
        loaded.text_parts()
        loaded.vae()
        loaded.unet()
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


def saved(path: Path, *keys: str) -> Path:
    save_file({key: torch.zeros(4, 4) for key in keys}, path)
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; download it again"),
        (random.Random(2).randbytes(100_000), "is not a .safetensors file"),
        (b"\x00" * 4_096, "is not a .safetensors file"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"PK\x03\x04", "is a pickle file, which can run code when it is read; convert it: python -c"),
    ],
)
def test_bytes_that_are_no_weights(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    line = refusal(path)
    assert line.startswith("model.safetensors")
    assert words in line


@pytest.mark.parametrize("part", [0.0001, 0.5, 0.999])
def test_a_truncated_file(tmp_path: Path, whole: Path, part: float) -> None:
    content = whole.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[: int(len(content) * part)])
    assert "cut.safetensors is truncated: it has" in refusal(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".pth", ".CKPT"])
def test_pickles_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"whatever it holds")
    line = refusal(path)
    assert "can run code when it is read" in line
    assert "convert it: python -c" in line


def test_the_command_for_pickles_works(tmp_path: Path, whole: Path) -> None:
    """What the message tells the user to do makes a checkpoint that loads."""
    path = tmp_path / "old.ckpt"
    torch.save({"state_dict": load_file(whole), "global_step": 3}, path)
    command = refusal(path).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", command], check=True)
    assert load(str(path.with_suffix(".safetensors"))).info.family == "sd1"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "a LoRA adapter; give it with --adapter"),
        ("unet.down_blocks.0.attentions.0.to_k.lora_A.weight", "a LoRA adapter"),
        ("lora_unet_mid_block.lokr_w1", "a LoRA adapter"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("double_blocks.0.img_attn.qkv.weight", "a Flux"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "a Stable Diffusion 3 model"),
        ("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight", "a motion module"),
        ("down_blocks.0.resnets.0.conv1.weight", "the UNet of a diffusers folder"),
        ("encoder.conv_in.weight", "an autoencoder alone"),
        ("text_model.embeddings.token_embedding.weight", "a text encoder alone"),
        ("emb_params", "a textual inversion"),
        ("model.layers.0.self_attn.q_proj.weight", "a language model"),
        ("something.else", "none of its 1 tensors belongs to such a UNet"),
    ],
)
def test_other_kinds_of_weights_are_named(tmp_path: Path, key: str, words: str) -> None:
    line = refusal(saved(tmp_path / "other.safetensors", key))
    assert "other.safetensors is not a Stable Diffusion model: " in line
    assert words.replace("a motion", "an AnimateDiff motion") in line


@pytest.mark.parametrize(
    ("channels", "words"), [(9, "an inpainting model"), (8, "an image-editing model"), (7, "an upscaler")]
)
def test_relatives_with_other_inputs_are_named(tmp_path: Path, whole: Path, channels: int, words: str) -> None:
    tensors = load_file(whole)
    tensors[f"{UNET}input_blocks.0.0.weight"] = torch.zeros(32, channels, 3, 3)
    save_file(tensors, tmp_path / "relative.safetensors")
    assert f"is {words}: its UNet takes {channels} channels" in refusal(tmp_path / "relative.safetensors")


def test_other_formulations_are_named(tmp_path: Path) -> None:
    extra = {"edm_vpred.sigma_max": torch.tensor(120.0)}
    path = tiny_single_file("sdxl", tmp_path / "cos.safetensors", dtype=HALF, extra=extra)
    assert "it is a CosXL model" in refusal(path)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("first_stage_model.", "has no autoencoder"),
        ("cond_stage_model.", "has no text encoder that Laur knows"),
        (f"{UNET}middle_block.1.transformer_blocks", "its unet lacks"),
        (f"{UNET}input_blocks.4.0.out_layers", "input_blocks.4.0.out_layers.3.weight is missing"),
        ("first_stage_model.decoder.mid.block_2.", "its vae lacks"),
        ("first_stage_model.encoder.down.3", "encoder.down.3.block.0.conv1.weight is missing"),
        ("cond_stage_model.transformer.text_model.encoder.layers.7.mlp", "its text_encoder lacks 4 of"),
    ],
)
def test_missing_weights_are_named(tmp_path: Path, whole: Path, prefix: str, words: str) -> None:
    kept = {key: tensor for key, tensor in load_file(whole).items() if not key.startswith(prefix)}
    save_file(kept, tmp_path / "pruned.safetensors")
    assert words in refusal(tmp_path / "pruned.safetensors")


def test_weights_of_another_shape_are_named(tmp_path: Path, whole: Path) -> None:
    tensors = load_file(whole)
    key = f"{UNET}middle_block.0.in_layers.2.weight"
    tensors[key] = tensors[key][:, :, :1, :1].contiguous()
    save_file(tensors, tmp_path / "odd.safetensors")
    assert "mid_block.resnets.0.conv1.weight is 96x96x1x1 and should be 96x96x3x3" in refusal(
        tmp_path / "odd.safetensors"
    )


def test_layers_too_many_are_another_model(tmp_path: Path, whole: Path) -> None:
    """Layers that would be left out silently would change every picture."""
    tensors = load_file(whole)
    for key in [key for key in tensors if key.startswith(f"{UNET}middle_block.1.transformer_blocks.0.")]:
        tensors[key.replace("blocks.0.", "blocks.1.")] = tensors[key].clone()
    save_file(tensors, tmp_path / "deep.safetensors")
    assert "tensors more than its architecture" in refusal(tmp_path / "deep.safetensors")


# folders


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_of_pickles(folder: Path) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"PK\x03\x04")
    line = refusal(folder)
    assert "holds pickles (unet/diffusion_pytorch_model.bin), which can run code" in line
    assert 'convert it: python -c "from diffusers import' in line


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    assert "vae holds no weights" in refusal(folder)


def test_a_truncated_component(folder: Path, whole_folder: Path) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: len(content) // 2])
    assert "unet/diffusion_pytorch_model.safetensors is truncated" in refusal(folder)


def test_a_shard_that_is_missing(folder: Path) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    shards = {"weight_map": {"conv_in.weight": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(shards))
    assert "diffusion_pytorch_model-00001-of-00002.safetensors is missing" in refusal(folder)
    shards = {"weight_map": {"conv_in.weight": "../vae/diffusion_pytorch_model.safetensors"}}
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(shards))
    assert "is missing" in refusal(folder)


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", '"text"', ""])
def test_configs_that_are_not_json(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    line = refusal(folder)
    assert "is not JSON" in line or "must hold a JSON object" in line


@pytest.mark.parametrize(
    "file", ["unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"]
)
def test_configs_that_are_missing(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert f"{file} is missing" in refusal(folder)


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        (
            "model_index.json",
            {"_class_name": "FluxPipeline", "unet": None},
            "is a FluxPipeline, not a Stable Diffusion",
        ),
        (
            "model_index.json",
            {"text_encoder": ["transformers", "T5EncoderModel"]},
            "whose text_encoder is T5EncoderModel",
        ),
        ("model_index.json", {"text_encoder": [None, None]}, "without a text encoder"),
        (
            "model_index.json",
            {"tokenizer": ["transformers", "T5Tokenizer"]},
            "class T5Tokenizer is not one that Laur loads",
        ),
        ("unet/config.json", {"in_channels": 9}, "its UNet takes 9 channels and its autoencoder gives 4"),
        ("unet/config.json", {"class_embed_type": "projection"}, "asks for class labels"),
        ("unet/config.json", {"addition_embed_type": "image"}, "is conditioned by image"),
        ("unet/config.json", {"sample_size": "wide"}, "make no sense"),
        ("unet/config.json", {"down_block_types": ["NoSuchBlock"] * 4}, "the config of its unet makes no network"),
        ("unet/config.json", {"cross_attention_dim": 96}, "does not fit its config"),
        ("text_encoder/config.json", {"num_hidden_layers": 11}, "tensors more than its architecture"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "predicts 'flow'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid' is unknown"),
        ("scheduler/scheduler_config.json", {"beta_start": "low"}, "must be a number"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow matching"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "the EDM formulation"),
    ],
)
def test_configs_of_other_models(folder: Path, file: str, changes: dict[str, object], words: str) -> None:
    edit(folder / file, **changes)
    assert words in refusal(folder)


def test_a_folder_without_an_index(tmp_path: Path, folder: Path) -> None:
    assert "give the folder above it" in refusal(folder / "unet")
    (tmp_path / "empty").mkdir()
    assert "has no model_index.json; give a diffusers folder" in refusal(tmp_path / "empty")
    saved(tmp_path / "empty" / "dream.safetensors", "x")
    assert "give the file that you mean, dream.safetensors say" in refusal(tmp_path / "empty")
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    assert "is a LoRA adapter, not a model; give it with --adapter" in refusal(tmp_path / "empty")


def test_a_tokenizer_that_is_missing_or_damaged(folder: Path) -> None:
    (folder / "tokenizer/vocab.json").unlink()
    (folder / "tokenizer/vocab.json").write_text("{")
    assert "the tokenizer in" in refusal(folder)
    (folder / "tokenizer/vocab.json").unlink()
    assert "tokenizer holds no vocabulary; download" in refusal(folder)
    shutil.rmtree(folder / "tokenizer")
    assert "tokenizer holds no vocabulary; download" in refusal(folder)


def test_a_file_that_changes_before_it_is_read(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(whole, path)
    loaded = load(str(path))
    loaded.vae()
    tiny_single_file("sd1", path, dtype=HALF, seed=1)
    with pytest.raises(CheckpointError, match=r"model\.safetensors changed on disk while it was in use; load "):
        loaded.unet()
    path.unlink()
    with pytest.raises(CheckpointError, match="changed on disk"):
        loaded.text_parts()


def test_an_unknown_prediction_is_refused(whole: Path) -> None:
    with pytest.raises(LaurError, match=r"prediction 'velocity' is unknown; choose one of epsilon"):
        load(str(whole), prediction="velocity")


def test_old_names_of_an_autoencoder_are_understood(folder: Path) -> None:
    """diffusers before 0.12 called the attention's layers otherwise; SD 1.5's own folder still does."""
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for new, old in names.items():
        tensors = {key.replace(new, old): tensor for key, tensor in tensors.items()}
    save_file(tensors, file)
    original = tiny_vae()
    assert all(torch.equal(tensor, original[key]) for key, tensor in load(str(folder)).vae().state_dict().items())


@cache
def tiny_vae() -> dict[str, torch.Tensor]:
    return tiny_parts("sd1", dtype=HALF)["vae"].state_dict()
