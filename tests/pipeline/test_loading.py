"""Checkpoints of every family, as folders and as single files: the weights that come out are those that went in."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

import laur.models
from helpers.tiny import FAMILIES, tiny_folder, tiny_parts, tiny_single_file
from laur.core.checkpoint import Family
from laur.core.errors import AmbiguousError, CheckpointError
from laur.core.schedule import NoiseSchedule
from laur.pipeline.loading import probe
from laur.pipeline.loading.detect import detect
from laur.pipeline.loading.load import LoadedCheckpoint, load
from laur.pipeline.loading.names import Kind, Located, locate
from laur.pipeline.loading.source import open_source, weights_bytes

HALF = torch.float16
CAT = [49406, 320, 1125, 539, 320, 2368, 49407]
"""`a photo of a cat` in CLIP's tokens."""


@cache
def parts_of(family: str) -> dict[str, nn.Module]:
    return tiny_parts(family, dtype=HALF)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda family: tiny_folder(family, tmp_path_factory.mktemp(family), parts=parts_of(family)))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    new = tmp_path_factory.mktemp
    return cache(lambda family: tiny_single_file(family, new(family) / "m.safetensors", parts=parts_of(family)))


def assert_same(loaded: nn.Module, original: nn.Module) -> None:
    ours, theirs = loaded.state_dict(), original.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


def assert_whole(loaded: LoadedCheckpoint, family: str) -> None:
    parts = parts_of(family)
    assert_same(loaded.unet(), parts["unet"])
    assert_same(loaded.vae(), parts["vae"])
    texts = loaded.text_parts()
    assert [text.name for text in texts] == [name for name in ("text_encoder", "text_encoder_2") if name in parts]
    for text in texts:
        assert_same(text.model, parts[text.name])
        assert text.tokenizer("a photo of a cat").input_ids == CAT
        assert text.tokenizer.model_max_length == 77
    for network in (loaded.unet(), loaded.vae(), *(text.model for text in texts)):
        assert not network.training
        assert not any(parameter.requires_grad or parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_loaded_bit_for_bit(folder: Callable[[str], Path], family: str) -> None:
    loaded = load(str(folder(family)))
    assert loaded.info.family == family
    assert loaded.info.native_size == 64
    assert_whole(loaded, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_is_loaded_bit_for_bit(single: Callable[[str], Path], family: str) -> None:
    loaded = load(str(single(family)), prediction="epsilon" if family == "sd2" else None)
    assert loaded.info.family == family
    assert_whole(loaded, family)
    # head counts show in no shape: the reduced model's must be those that it was made with
    assert loaded.unet().config.attention_head_dim == parts_of(family)["unet"].config.attention_head_dim
    for text in loaded.text_parts():
        for key in ("num_attention_heads", "hidden_act", "num_hidden_layers", "eos_token_id"):
            assert getattr(text.model.config, key) == getattr(parts_of(family)[text.name].config, key)


@pytest.mark.parametrize(
    ("family", "scale", "size", "zeros", "aesthetics"),
    [
        ("sd1", 0.18215, 512, False, False),
        ("sdxl", 0.13025, 1024, True, False),
        ("ssd-1b", 0.13025, 1024, True, False),
        ("sdxl-refiner", 0.13025, 1024, False, True),
    ],
)
def test_traits_of_a_single_file(  # noqa: PLR0917
    single: Callable[[str], Path], family: str, scale: float, size: int, zeros: bool, aesthetics: bool
) -> None:
    info = load(str(single(family))).info
    assert (info.prediction, info.spacing, info.steps_offset, info.set_alpha_to_one) == ("epsilon", "leading", 1, False)
    assert (info.latent_channels, info.latent_scale, info.latent_shift, info.downscale) == (4, scale, 0.0, 8)
    assert info.native_size == size
    assert (info.zeros_for_empty_prompt, info.aesthetics_score) == (zeros, aesthetics)
    assert info.schedule == NoiseSchedule()
    assert not info.guidance_embedding
    assert info.family.is_xl == (family != "sd1")


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        ("sd1", 859_520_964),
        ("sd2", 865_910_724),
        ("sdxl", 2_567_463_684),
        ("ssd-1b", 1_331_334_404),
        ("sdxl-refiner", 2_259_526_660),
    ],
)
def test_the_shipped_configs_are_of_the_published_size(family: str, parameters: int) -> None:
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel

    config = json.loads((Path(laur.models.__file__).parent / "configs" / family / "unet/config.json").read_text())
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(config)
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters


def test_folder_and_file_draw_the_same_as_diffusers_loads(folder: Callable[[str], Path]) -> None:
    path = folder("sd1")
    pipe = StableDiffusionPipeline.from_pretrained(path, dtype=torch.float32, safety_checker=None)
    loaded = load(str(path), dtype=torch.float32)
    latent, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 64)
    ids = torch.tensor([CAT])
    with torch.inference_mode():
        assert torch.equal(loaded.unet()(latent, 500, context).sample, pipe.unet(latent, 500, context).sample)
        assert torch.equal(loaded.vae().decode(latent).sample, pipe.vae.decode(latent).sample)
        ours = loaded.text_parts()[0].model(ids).last_hidden_state
        assert torch.equal(ours, pipe.text_encoder(ids).last_hidden_state)


def test_only_fp16_files_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tiny_folder("sd1", tmp_path / "half", parts=parts_of("sd1"), variant="fp16")
    for variant in (None, "fp16"):
        assert_whole(load(str(path), variant=variant), "sd1")


def test_a_variant_is_chosen_by_name_and_plain_files_otherwise(tmp_path: Path) -> None:
    path = tiny_folder("sd1", tmp_path / "both", dtype=torch.float32)
    tiny_folder("sd1", path, parts=parts_of("sd1"), variant="fp16")
    assert load(str(path)).unet().dtype is torch.float32
    assert load(str(path), variant="fp16").unet().dtype is HALF
    assert load(str(path)).info.sha256 != load(str(path), variant="fp16").info.sha256
    with pytest.raises(CheckpointError, match=r"holds no variant 'int8'; it has fp16"):
        load(str(path), variant="int8")


def test_a_dtype_is_converted_to_on_the_way(folder: Callable[[str], Path]) -> None:
    loaded = load(str(folder("sd1")), dtype=torch.bfloat16)
    for network in (loaded.unet(), loaded.vae(), loaded.text_parts()[0].model):
        assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


def test_weights_in_shards_are_joined(folder: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "sharded"
    shutil.copytree(folder("sd1"), path)
    shutil.rmtree(path / "unet")
    parts_of("sd1")["unet"].save_pretrained(path / "unet", max_shard_size="2MB")
    assert len(list((path / "unet").glob("*-of-*.safetensors"))) > 1
    assert_same(load(str(path)).unet(), parts_of("sd1")["unet"])


def test_networks_are_read_once_and_only_when_asked_for(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(str(folder("sd1")))
    with monkeypatch.context() as patch:
        patch.setattr("laur.pipeline.loading.folder.read_tensors", lambda *_: pytest.fail("read too early"))
        assert loaded.weights_bytes() > 0
    assert loaded.unet() is loaded.unet()
    assert loaded.text_parts() is loaded.text_parts()


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_weights_are_counted_from_headers(
    folder: Callable[[str], Path], single: Callable[[str], Path], family: str
) -> None:
    networks = parts_of(family).values()
    expected = sum(tensor.nbytes for network in networks for tensor in network.state_dict().values())
    assert weights_bytes(locate(str(folder(family)))) == expected
    # a single file carries a few oddments more
    assert expected <= weights_bytes(locate(str(single(family)))) < expected + 2_000


# what a checkpoint predicts


def test_a_folder_says_what_it_predicts(tmp_path: Path) -> None:
    path = tiny_folder(
        "sd2",
        tmp_path / "v",
        parts=parts_of("sd2"),
        prediction="v_prediction",
        timestep_spacing="trailing",
        steps_offset=0,
    )
    info = load(str(path)).info
    assert (info.prediction, info.spacing, info.steps_offset) == ("v_prediction", "trailing", 0)
    assert load(str(path), prediction="epsilon").info.prediction == "epsilon"


@pytest.mark.parametrize(
    ("metadata", "prediction", "size"),
    [
        ({"modelspec.prediction_type": "v"}, "v_prediction", 768),
        ({"modelspec.prediction_type": "epsilon"}, "epsilon", 512),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction", 768),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon", 512),
        ({"ss_v_parameterization": "True"}, "v_prediction", 768),
    ],
)
def test_metadata_of_an_sd2_file_say_what_it_predicts(
    tmp_path: Path, metadata: dict[str, str], prediction: str, size: int
) -> None:
    path = tiny_single_file("sd2", tmp_path / "two.safetensors", parts=parts_of("sd2"), metadata=metadata)
    info = load(str(path)).info
    assert (info.family, info.prediction, info.native_size) == (Family.SD2, prediction, size)
    assert info.unet_config["sample_size"] == size // 8


@pytest.mark.parametrize(
    ("yaml", "prediction"),
    [
        (
            'model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    parameterization: "v"\n',
            "v_prediction",
        ),
        ("model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n", "epsilon"),
    ],
)
def test_a_yaml_beside_an_sd2_file_says_what_it_predicts(
    single: Callable[[str], Path], tmp_path: Path, yaml: str, prediction: str
) -> None:
    path = tmp_path / "two.safetensors"
    path.symlink_to(single("sd2"))
    path.with_suffix(".yaml").write_text(yaml)
    assert load(str(path)).info.prediction == prediction


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUR_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("fresh_cache")
@pytest.mark.parametrize("answer", ["epsilon", "v_prediction"])
def test_an_sd2_file_that_says_nothing_is_probed_once(
    single: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    assert detect(open_source(locate(str(single("sd2"))))).prediction is None
    asked: list[torch.dtype] = []
    monkeypatch.setattr(probe, "probe_prediction", lambda unet, schedule: asked.append(unet.dtype) or answer)
    for _ in range(2):
        info = load(str(single("sd2"))).info
        assert (info.prediction, info.native_size) == (answer, 512 if answer == "epsilon" else 768)
    assert asked == [torch.float32]


@pytest.mark.usefixtures("fresh_cache")
def test_an_unclear_probe_asks_by_name(single: Callable[[str], Path]) -> None:
    """Random weights predict nothing at all."""
    with pytest.raises(AmbiguousError, match=r"give --prediction epsilon or --prediction v_prediction$") as error:
        load(str(single("sd2")))
    assert "\n" not in str(error.value)
    assert load(str(single("sd2")), prediction="v_prediction").info.prediction == "v_prediction"


def test_marks_of_velocity_and_zero_terminal_snr_are_honoured(tmp_path: Path) -> None:
    marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    path = tiny_single_file("sdxl", tmp_path / "xl.safetensors", parts=parts_of("sdxl"), extra=marks)
    info = load(str(path)).info
    assert (info.prediction, info.spacing) == ("v_prediction", "trailing")
    assert info.schedule == NoiseSchedule(rescale_betas_zero_snr=True)


def test_marks_that_contradict_each_other_are_not_decided_upon(tmp_path: Path) -> None:
    options = {"metadata": {"modelspec.prediction_type": "epsilon"}, "extra": {"v_pred": torch.tensor([])}}
    path = tiny_single_file("sdxl", tmp_path / "xl.safetensors", parts=parts_of("sdxl"), **options)
    with pytest.raises(AmbiguousError, match=r"contradicts itself: its key v_pred says v_prediction and its metadata"):
        load(str(path))
    assert load(str(path), prediction="v_prediction").info.prediction == "v_prediction"


def test_a_guidance_embedding_is_found_and_loaded(tmp_path: Path) -> None:
    projection = torch.randn(32, 16, dtype=HALF)
    extra = {"model.diffusion_model.time_embed.cond_proj.weight": projection}
    loaded = load(str(tiny_single_file("sd1", tmp_path / "lcm.safetensors", parts=parts_of("sd1"), extra=extra)))
    assert loaded.info.guidance_embedding
    assert loaded.info.unet_config["time_cond_proj_dim"] == 16
    assert loaded.info.defaults.guidance == 8.5
    assert torch.equal(loaded.unet().time_embedding.cond_proj.weight, projection)


def test_a_folder_with_lcm_s_scheduler_is_an_lcm(tmp_path: Path) -> None:
    told: dict[str, Any] = {"_class_name": "LCMScheduler"}
    info, plain = (
        load(str(tiny_folder("sd1", tmp_path / name, parts=parts_of("sd1"), **scheduler))).info
        for name, scheduler in (("lcm", told), ("plain", {}))
    )
    assert (info.is_lcm, info.guidance_inside, info.guidance_embedding) == (True, True, False)
    assert (info.defaults.sampler, info.defaults.guidance) == ("lcm", 1.0)
    assert not plain.is_lcm
    assert (plain.defaults.sampler, plain.defaults.guidance) == ("dpm++2m", 7.5)
    assert info.schedule == plain.schedule


class Trained:
    """A network that knows its picture, a flat grey, and answers as it was taught."""

    def __init__(self, schedule: NoiseSchedule, taught: str, leak: float = 0.0) -> None:
        self.schedule, self.taught, self.leak = schedule, taught, leak
        self.config = type("Config", (), {"in_channels": 4, "cross_attention_dim": 8})
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def __call__(self, latent: torch.Tensor, timestep: int, context: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        alpha, sigma = self.schedule.alpha(timestep), self.schedule.sigma(timestep)
        x0 = self.leak * latent + 0.3
        noise = (latent - alpha * x0) / sigma
        answers = {
            "epsilon": noise,
            "v_prediction": alpha * noise - sigma * x0,
            "sample": x0,
            "nonsense": torch.randn_like(latent),
        }
        return (answers[self.taught],)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("leak", [0.0, 0.1])
@pytest.mark.parametrize("taught", ["epsilon", "v_prediction"])
def test_the_probe_tells_noise_from_velocity(taught: str, leak: float, zero_snr: bool) -> None:
    schedule = NoiseSchedule(rescale_betas_zero_snr=zero_snr)
    assert probe.probe_prediction(Trained(schedule, taught, leak), schedule) == taught


@pytest.mark.parametrize("taught", ["sample", "nonsense"])
def test_the_probe_does_not_decide_on_other_answers(taught: str) -> None:
    assert probe.probe_prediction(Trained(NoiseSchedule(), taught), NoiseSchedule()) is None


# the embedded model


def test_the_embedded_model_is_loaded_by_name() -> None:
    loaded = load("mini")
    info = loaded.info
    assert (info.name, info.family, info.defaults.adapters) == ("mini", Family.MINI, ("lcm-lora-mini",))
    (text,) = loaded.text_parts()
    assert text.tokenizer("a red fox").input_ids
    assert text.model.config.use_attention_mask
    with torch.inference_mode():
        latent = torch.randn(1, info.latent_channels, 8, 8, dtype=loaded.unet().dtype)
        assert loaded.vae().decode(latent).sample.shape == (1, 3, 8 * info.downscale, 8 * info.downscale)
    # a folder of the same content is the same checkpoint, though its own LoRA is not assumed to fit it
    same = load(str(info.path)).info
    assert (same.sha256, same.defaults.adapters) == (info.sha256, ())


class Rewritten:
    """A velocity network whose answers are put as noise: epsilon = alpha · v + sigma · x_t."""

    def __init__(self, unet: Any, schedule: NoiseSchedule) -> None:
        self.unet, self.schedule = unet, schedule
        self.config, self.device, self.dtype = unet.config, unet.device, unet.dtype

    def __call__(self, latent: torch.Tensor, timestep: int, context: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        v = self.unet(latent, timestep, context, return_dict=False)[0]
        return (self.schedule.alpha(timestep) * v + self.schedule.sigma(timestep) * latent,)


def test_the_probe_agrees_with_the_embedded_model() -> None:
    """The one trained network there is."""
    loaded = load("mini", dtype=torch.float32)
    unet, schedule = loaded.unet(), loaded.info.schedule
    assert probe.probe_prediction(unet, schedule) == loaded.info.prediction
    if loaded.info.prediction == "v_prediction":
        assert probe.probe_prediction(Rewritten(unet, schedule), schedule) == "epsilon"


def test_a_located_checkpoint_says_what_it_is(folder: Callable[[str], Path], single: Callable[[str], Path]) -> None:
    path = folder("sd1")
    assert locate(str(path)) == Located(str(path), Kind.FOLDER, path)
    assert locate(str(single("sd1"))).kind is Kind.FILE
    assert locate("mini").kind is Kind.EMBEDDED
