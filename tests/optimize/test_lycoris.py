"""LoCon, LoHa, LoKr, DoRA, IA3 and full differences: against their definitions written out, and against PEFT."""

from __future__ import annotations

import copy

import pytest
import torch
from lora_kit import SD1, distance, merge_into, predict, tiny_unet, write

from laur.core.errors import AdapterError, MismatchError
from laur.optimize.catalogue import find
from laur.optimize.deltas import Dense, DoRA, Kronecker, LowRank, Scale
from laur.optimize.layers import LayerShape
from laur.optimize.lora_file import LoraFile
from laur.optimize.merge import layer_shapes, merged_state

OUT, IN, R = 12, 8, 2
LINEAR, CONV = LayerShape((OUT, IN)), LayerShape((OUT, IN, 3, 3))


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def read(path, state: dict, layer: LayerShape = LINEAR, metadata=None):
    """What a file of one layer says, and its delta."""
    named = {f"lora_unet_x.{role}": tensor for role, tensor in state.items()}
    adapter = LoraFile(write(path / "a.safetensors", named, metadata))
    assert adapter.coverage({"unet.x": layer}).left == {}
    return adapter.deltas({"unet.x": layer})


def changed(found, layer: LayerShape, weight: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    base = {"unet.x.weight": draw(*layer.weight, seed=99), "unet.x.bias": draw(layer.weight[0], seed=98)}
    merged = merged_state(base, [(found, weight)], torch.float32)
    return base["unet.x.weight"], merged.get("unet.x.weight", base["unet.x.weight"])


def tucker(t: torch.Tensor, wb: torch.Tensor, wa: torch.Tensor) -> torch.Tensor:
    """LyCORIS, `rebuild_tucker`."""
    return torch.einsum("i j k l, j r, i p -> p r k l", t, wb, wa)


def loha(kernel: bool = False, core: bool = False) -> tuple[dict, torch.Tensor]:
    inner = IN * 9 if kernel and not core else IN
    state = {f"hada_w{s}_a": draw(R, OUT, seed=s) if core else draw(OUT, R, seed=s) for s in (1, 2)}
    state |= {f"hada_w{s}_b": draw(R, inner, seed=s + 2) for s in (1, 2)}
    if core:
        state |= {f"hada_t{s}": draw(R, R, 3, 3, seed=s + 4) for s in (1, 2)}
        a, b = (tucker(state[f"hada_t{s}"], state[f"hada_w{s}_b"], state[f"hada_w{s}_a"]) for s in (1, 2))
    else:
        a, b = (state[f"hada_w{s}_a"] @ state[f"hada_w{s}_b"] for s in (1, 2))
    return {**state, "alpha": torch.tensor(1.0)}, a * b / R


@pytest.mark.parametrize(("kernel", "core"), [(False, False), (True, False), (True, True)])
def test_loha_is_low_rank_of_the_square_of_its_rank(kernel, core, tmp_path):
    state, expected = loha(kernel, core)
    layer = CONV if kernel else LINEAR
    found = read(tmp_path, state, layer)
    base, merged = changed(found, layer)
    torch.testing.assert_close(merged - base, expected.view(layer.weight), rtol=1e-4, atol=1e-5)
    delta = found["unet.x"]
    if kernel:
        assert isinstance(delta, LowRank) and delta.rank == R * R
    else:  # 4 · (12 + 8) numbers are not fewer than the 12 · 8 of the matrix by much, but they are
        assert isinstance(delta, LowRank) and delta.nbytes < base.nbytes
    small = read(tmp_path, state, layer) if kernel else None
    assert small is None or torch.equal(small["unet.x"].up, delta.up)


def test_loha_of_a_high_rank_is_kept_as_a_matrix(tmp_path):
    state = {f"hada_w{s}_{f}": draw(*((OUT, 6) if f == "a" else (6, IN)), seed=s) for s in (1, 2) for f in "ab"}
    found = read(tmp_path, state)
    assert isinstance(found["unet.x"], Dense)
    expected = (state["hada_w1_a"] @ state["hada_w1_b"]) * (state["hada_w2_a"] @ state["hada_w2_b"])
    torch.testing.assert_close(found["unet.x"].difference, expected)


LOKR = {
    "whole": ({"lokr_w1": (3, 2), "lokr_w2": (4, 4)}, LINEAR),
    "right in two": ({"lokr_w1": (3, 2), "lokr_w2_a": (4, R), "lokr_w2_b": (R, 4)}, LINEAR),
    "both in two": ({"lokr_w1_a": (3, R), "lokr_w1_b": (R, 2), "lokr_w2_a": (4, R), "lokr_w2_b": (R, 4)}, LINEAR),
    "whole kernel": ({"lokr_w1": (3, 2), "lokr_w2": (4, 4, 3, 3)}, CONV),
    "kernel in two": ({"lokr_w1": (3, 2), "lokr_w2_a": (4, R), "lokr_w2_b": (R, 36)}, CONV),
    "tucker": ({"lokr_w1": (3, 2), "lokr_t2": (R, R, 3, 3), "lokr_w2_a": (R, 4), "lokr_w2_b": (R, 4)}, CONV),
}


@pytest.mark.parametrize("form", LOKR)
def test_lokr_is_a_kronecker_product(form, tmp_path):
    shapes, layer = LOKR[form]
    state = {role: draw(*shape, seed=number) for number, (role, shape) in enumerate(shapes.items())}
    w1 = state["lokr_w1"] if "lokr_w1" in state else state["lokr_w1_a"] @ state["lokr_w1_b"]
    if "lokr_t2" in state:
        w2 = tucker(state["lokr_t2"], state["lokr_w2_b"], state["lokr_w2_a"])
    else:
        w2 = state["lokr_w2"] if "lokr_w2" in state else state["lokr_w2_a"] @ state["lokr_w2_b"]
    if w2.ndim == 4:
        w1 = w1[:, :, None, None]
    # two whole factors have no rank to divide alpha by (LyCORIS: alpha = lora_dim)
    expected = torch.kron(w1.contiguous(), w2.contiguous()).reshape(layer.weight) * (
        1.0 if form.startswith("whole") else 3.0 / R
    )
    found = read(tmp_path, {**state, "alpha": torch.tensor(3.0)}, layer)
    assert isinstance(found["unet.x"], Kronecker)
    base, merged = changed(found, layer)
    torch.testing.assert_close(merged - base, expected, rtol=1e-4, atol=1e-5)


def test_full_differences_and_biases(tmp_path):
    state = {"diff": draw(*CONV.weight, seed=1), "diff_b": draw(OUT, seed=2)}
    found = read(tmp_path, state, CONV)
    assert set(found) == {"unet.x", "unet.x.bias"}
    base = {"unet.x.weight": draw(*CONV.weight, seed=3), "unet.x.bias": draw(OUT, seed=4)}
    merged = merged_state(base, [(found, -0.5)], torch.float32)
    torch.testing.assert_close(merged["unet.x.weight"], base["unet.x.weight"] - 0.5 * state["diff"])
    torch.testing.assert_close(merged["unet.x.bias"], base["unet.x.bias"] - 0.5 * state["diff_b"])


def test_a_lora_with_a_difference_of_the_bias(tmp_path):
    state = {"lora_down.weight": draw(R, IN, seed=1), "lora_up.weight": draw(OUT, R, seed=2)}
    found = read(tmp_path, {**state, "diff_b": draw(OUT, seed=3)})
    assert isinstance(found["unet.x"], LowRank) and isinstance(found["unet.x.bias"], Dense)
    with pytest.raises(MismatchError, match=r"changes the bias of unet\.x by 12 numbers, and this checkpoint has none"):
        read(tmp_path, {**state, "diff_b": draw(OUT, seed=3)}, LayerShape((OUT, IN), bias=False))
    with pytest.raises(MismatchError, match="by 5 numbers, and this checkpoint has 12 numbers"):
        read(tmp_path, {**state, "diff_b": draw(5, seed=3)})


@pytest.mark.parametrize(("on_input", "size"), [(0, OUT), (1, IN)])
def test_ia3_of_lycoris(on_input, size, tmp_path):
    """LyCORIS's IA3Module: W (1 + w · weight) along one side."""
    weight = draw(size, seed=1)
    found = read(tmp_path, {"weight": weight, "on_input": torch.tensor(on_input)})
    assert isinstance(found["unet.x"], Scale) and set(found) == {"unet.x"}
    base, merged = changed(found, LINEAR, 0.5)
    factor = 1 + 0.5 * weight
    torch.testing.assert_close(merged, base * (factor[None, :] if on_input else factor[:, None]))
    with pytest.raises(MismatchError):
        read(tmp_path, {"weight": weight, "on_input": torch.tensor(1 - on_input)})


@pytest.mark.parametrize("weight", [1.0, 0.6, -0.3])
@pytest.mark.parametrize("layer", [LINEAR, CONV], ids=["linear", "conv"])
@pytest.mark.parametrize("by_input", [False, True])
def test_dora_of_lycoris(by_input, layer, weight, tmp_path):
    """LyCORIS's `weight_decompose(W + Δ, dora_scale, multiplier)`."""
    kernel = layer.weight[2:]
    down, up = draw(R, IN, *kernel, seed=1), draw(OUT, R, *(1 for _ in kernel), seed=2)
    shape = [1] * len(layer.weight)
    shape[int(by_input)] = layer.weight[int(by_input)]
    magnitude = draw(*shape, seed=3).abs() + 0.5
    state = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": magnitude, "alpha": torch.tensor(1.0)}
    found = read(tmp_path, state, layer)
    assert isinstance(found["unet.x"], DoRA) and found["unet.x"].axis == int(by_input)
    base, merged = changed(found, layer, weight)
    summed = base + (up.flatten(1) @ down.flatten(1)).view(layer.weight) / R
    norm = summed.transpose(0, int(by_input)).flatten(1).norm(dim=1).view(shape)
    expected = summed * (weight * (magnitude / norm - 1) + 1)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    nothing = merged_state({"unet.x.weight": base}, [(found, 0.0)], torch.float32)
    assert nothing == {}


def test_doha_and_dokr(tmp_path):
    """A magnitude over LoHa and LoKr."""
    for state in (loha()[0], {"lokr_w1": draw(3, 2, seed=1), "lokr_w2": draw(4, 4, seed=2)}):
        magnitude = draw(OUT, 1, seed=3).abs() + 1
        found = read(tmp_path, {**state, "dora_scale": magnitude})
        plain = read(tmp_path, state)
        merged = changed(found, LINEAR)[1]
        summed = changed(plain, LINEAR)[1]
        torch.testing.assert_close(merged, summed * magnitude / summed.norm(dim=1, keepdim=True))
    with pytest.raises(MismatchError):
        read(tmp_path, {**state, "dora_scale": torch.ones(OUT + 1, 1)})


MIXED = {
    "LoRA and LoHa": {"lora_down.weight": (R, IN), "lora_up.weight": (OUT, R), "hada_w1_a": (OUT, R)},
    "full and LoKr": {"diff": (OUT, IN), "lokr_w1": (3, 2)},
}


@pytest.mark.parametrize("what", MIXED)
def test_two_kinds_in_one_layer_are_refused(what, tmp_path):
    state = {role: draw(*shape, seed=1) for role, shape in MIXED[what].items()}
    with pytest.raises(AdapterError, match=r"mixes .* in one layer"):
        read(tmp_path, state)


DAMAGED = {
    "loha ranks": ({"hada_w1_a": (OUT, 2), "hada_w1_b": (3, IN), "hada_w2_a": (OUT, 2), "hada_w2_b": (2, IN)}, "ranks"),
    "loha sides": ({"hada_w1_a": (OUT, 2), "hada_w1_b": (2, 4), "hada_w2_a": (OUT, 2), "hada_w2_b": (2, IN)}, "differ"),
    "lokr core": ({"lokr_w1": (3, 2), "lokr_t2": (3, 2, 3, 3), "lokr_w2_a": (2, 4), "lokr_w2_b": (2, 4)}, "ranks"),
    "zero rank": ({"lokr_w1": (3, 2), "lokr_w2_a": (4, 0), "lokr_w2_b": (0, 4)}, "rank 0"),
    "another shape": ({"lokr_w1": (3, 2), "lokr_w2": (4, 5)}, "12x10"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_factors(what, tmp_path):
    shapes, match = DAMAGED[what]
    with pytest.raises(AdapterError, match=match) as caught:
        read(tmp_path, {role: torch.ones(shape) for role, shape in shapes.items()})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("role", ["hada_w2_b", "lokr_w2", "dora_scale", "diff", "diff_b", "weight"])
def test_a_number_that_is_none_is_found_in_every_kind(role, tmp_path):
    lora = {"lora_down.weight": torch.ones(R, IN), "lora_up.weight": torch.ones(OUT, R)}
    whole = {
        "hada_w2_b": loha()[0],
        "lokr_w2": {"lokr_w1": torch.ones(3, 2), "lokr_w2": torch.ones(4, 4)},
        "dora_scale": {**lora, "dora_scale": torch.ones(OUT, 1)},
        "diff": {"diff": torch.ones(OUT, IN)},
        "diff_b": {**lora, "diff_b": torch.ones(OUT)},
        "weight": {"weight": torch.ones(OUT), "on_input": torch.tensor(0)},
    }[role]
    read(tmp_path, whole)
    bad = whole[role].clone()
    bad.view(-1)[-1] = float("nan")
    with pytest.raises(AdapterError, match=rf"{role} holds values that are not finite"):
        read(tmp_path, {**whole, role: bad})


def test_what_is_stored_twice_is_told(tmp_path):
    """Nothing is dropped in silence: of two forms of one thing none is taken."""
    small = {"lora_up.weight": torch.ones(OUT, R), "lora_down.weight": torch.ones(R, IN)}
    kron = {"lokr_w1": torch.ones(3, 2), "lokr_w2": torch.ones(4, 4)}
    pairs = {
        "lokr_w2_a": {**kron, "lokr_w2_a": torch.ones(4, 1), "lokr_w2_b": torch.ones(1, 4)},
        "lokr_w1_a": {**kron, "lokr_w1_a": torch.ones(3, 1), "lokr_w1_b": torch.ones(1, 2)},
        "dora_scale": {**small, "dora_scale": torch.ones(OUT, 1), "lora_magnitude_vector": torch.ones(OUT)},
    }
    for role, state in pairs.items():
        with pytest.raises(AdapterError, match=rf"holds both .* and .*{role}"):
            read(tmp_path, state)


def test_factors_that_no_layer_can_have_are_refused(tmp_path):
    flat = {"lora_up.weight": torch.ones(OUT, R), "lora_down.weight": torch.ones(R, IN)}
    with pytest.raises(AdapterError, match=r"lora_mid\.weight has 2 dimensions instead of 4"):
        read(tmp_path, {**flat, "lora_mid.weight": torch.ones(R, R)})
    odd = {
        "lokr_w1": torch.ones(1, 9),
        "lokr_w2": torch.ones(OUT, IN),
    }  # as many numbers as the kernel's, laid otherwise
    path = write(tmp_path / "odd.safetensors", {f"lora_unet_x.{role}": tensor for role, tensor in odd.items()})
    with pytest.raises(MismatchError):
        LoraFile(path).deltas({"unet.x": CONV})
    with pytest.raises(AdapterError, match="one factor for each channel"):
        read(tmp_path, {"weight": torch.tensor(1.0), "on_input": torch.tensor(0)})


@pytest.mark.filterwarnings("ignore")
class TestAgainstPeft:
    """Trained by PEFT, saved by PEFT, read here: the same predictions."""

    def check(self, config, tmp_path, weight: float = 1.0) -> None:
        from peft import get_peft_model

        unet = tiny_unet(SD1)
        trained = get_peft_model(copy.deepcopy(unet), config)
        draws = torch.Generator().manual_seed(9)
        for name, parameter in trained.named_parameters():
            if any(part in name for part in ("lora_", "hada_", "lokr_", "ia3_")) and "magnitude" not in name:
                parameter.data = parameter.data + torch.randn(parameter.shape, generator=draws) * 0.1
        trained.save_pretrained(tmp_path)
        ours = copy.deepcopy(unet)
        merge_into(ours, "unet", find(str(tmp_path)).deltas(layer_shapes(ours, "unet")), weight)
        for module in trained.modules() if weight != 1 else ():
            if hasattr(module, "set_scale"):
                module.set_scale("default", weight)
        theirs = predict(trained.base_model.model)
        assert distance(theirs, predict(unet)) > 1e-3
        assert distance(predict(ours), theirs) <= 1e-5

    TARGETS = ("to_q", "to_out.0", "conv1", "proj_in")

    def test_dora(self, tmp_path):
        from peft import LoraConfig

        self.check(LoraConfig(r=4, lora_alpha=2, target_modules=list(self.TARGETS), use_dora=True), tmp_path)

    def test_the_weight_of_dora(self, tmp_path):
        """PEFT's `set_scale`: the weight is part of LoRA's scale, inside the norm."""
        from peft import LoraConfig

        config = LoraConfig(r=4, lora_alpha=2, target_modules=list(self.TARGETS), use_dora=True)
        self.check(config, tmp_path, weight=0.4)

    def test_lora_with_a_bias(self, tmp_path):
        from peft import LoraConfig

        targets = ["to_out.0", "proj_in", "conv1"]
        self.check(LoraConfig(r=4, lora_alpha=6, target_modules=targets, lora_bias=True), tmp_path)

    @pytest.mark.parametrize("effective", [False, True])
    def test_loha(self, effective, tmp_path):
        from peft import LoHaConfig

        settings = {"target_modules": list(self.TARGETS), "use_effective_conv2d": effective}
        self.check(LoHaConfig(r=3, alpha=2, alpha_pattern={"to_q": 5}, **settings), tmp_path)

    @pytest.mark.parametrize("effective", [False, True])
    @pytest.mark.parametrize("rank", [2, 64])
    def test_lokr(self, rank, effective, tmp_path):
        from peft import LoKrConfig

        settings = {"target_modules": list(self.TARGETS), "use_effective_conv2d": effective}
        self.check(LoKrConfig(r=rank, alpha=3, **settings), tmp_path)

    def test_ia3(self, tmp_path):
        from peft import IA3Config

        targets = ["to_q", "to_k", "to_out.0", "ff.net.2"]
        self.check(IA3Config(target_modules=targets, feedforward_modules=["ff.net.2"]), tmp_path)

    @pytest.mark.parametrize("forward", [[], ["conv1"], ["conv2"], r".*resnets\.\d+\.conv2"])
    def test_ia3_of_convolutions(self, forward, tmp_path):
        """(1, n, 1, 1) for inputs and outputs alike: the settings say which."""
        from peft import IA3Config

        self.check(IA3Config(target_modules=["conv1", "conv2"], feedforward_modules=forward), tmp_path)
