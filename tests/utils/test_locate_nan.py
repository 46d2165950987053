"""The first layer at fault is named, and the module is left as it was."""

import pytest
import torch
from torch import nn

from laur.utils.locate_nan import first_nonfinite, shape_report


class Divides(nn.Module):
    """Arithmetic between layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)

    def forward(self, x, *, mask=None):
        return {"sample": (self.last(self.first(x) / 0.0 * 0.0),)}


def deep():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 2))


def hooks(module):
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules())


def test_a_sound_module_has_no_report():
    module = deep()
    assert first_nonfinite(module, lambda: module(torch.ones(3, 4))) is None
    assert hooks(module) == 0


def test_the_innermost_layer_is_named_with_its_weight():
    module = deep()
    with torch.no_grad():
        module[1][1].weight[0, 0] = torch.nan
    report = first_nonfinite(module, lambda: module(torch.ones(3, 4)))
    assert (report.name, report.kind) == ("1.1", "Linear")
    assert (report.inputs, report.outputs) == (((3, 8),), ((3, 8),))
    assert (report.nans, report.infinities, report.values) == (3, 0, 24)
    assert str(report) == "1.1 (Linear, 3x8 to 3x8: 3 NaN of 24 values, as its weight is not finite)"
    assert hooks(module) == 0


def test_overflow_is_told_from_bad_weights():
    module = deep().half()
    with torch.no_grad():
        module[2].weight.fill_(60000)
    report = first_nonfinite(module, lambda: module(torch.full((1, 4), 1000.0).half()))
    assert report.name == "2"
    assert report.weights == ()
    assert report.nans + report.infinities > 0


def test_arithmetic_between_layers_is_blamed_on_the_layer_that_does_it():
    module = Divides()
    report = first_nonfinite(module, lambda: module(torch.ones(1, 4)))
    assert report.name == ""
    assert str(report).startswith("the module itself (Divides, 1x4 to 1x4")


def test_bad_inputs_are_no_layers_fault_but_masks_of_minus_infinity_are_fine():
    module = Divides()
    assert first_nonfinite(module, lambda: module(torch.full((1, 4), torch.nan))) is None
    mask = torch.tensor([0.0, -torch.inf])
    assert first_nonfinite(module, lambda: module(torch.ones(1, 4), mask=mask)) is not None


def test_an_exception_passes_unless_a_layer_was_found():
    module = deep()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        first_nonfinite(module, lambda: module(torch.ones(3, 5)))
    assert hooks(module) == 0

    def run():
        module(torch.ones(3, 4))
        raise RuntimeError("NaN noticed")

    with torch.no_grad():
        module[0].bias[0] = torch.inf
    assert first_nonfinite(module, run).weights == ("bias",)


def test_shapes_are_told_call_by_call():
    module = deep()
    report = shape_report(module, lambda: module(torch.ones(3, 4)))
    assert [layer.name for layer in report.layers] == ["0", "1.0", "1.1", "1", "2", ""]
    assert str(report.layers[0]) == "0  Linear  3x4 -> 3x8  40"
    assert report.layers[-1].parameters == sum(p.numel() for p in module.parameters())
    assert report.failed is None
    assert hooks(module) == 0


def test_a_layer_that_raises_is_named_with_what_it_was_given():
    module = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 2)))
    report = shape_report(module, lambda: module(torch.ones(3, 4)))
    assert report.failed == "0.1 (Linear, given 3x8)"
    assert "RuntimeError" in str(report).splitlines()[-1]
    assert hooks(module) == 0
