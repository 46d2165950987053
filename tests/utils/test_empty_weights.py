"""Networks without memory, in one thread of several."""

import threading

import torch
from torch import nn

from laur.utils.empty_weights import EmptyWeights


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Embedding(5, 6))
        self.register_buffer("positions", torch.arange(7), persistent=False)


def test_parameters_take_no_memory_and_buffers_keep_their_values() -> None:
    with EmptyWeights():
        module = Small()
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
    assert module.positions.tolist() == list(range(7))
    full = Small()
    module.load_state_dict(full.state_dict(), assign=True)
    assert module.layers[0].weight is not None
    assert torch.equal(module.layers[0].weight, full.layers[0].weight)


def test_other_threads_build_theirs_as_ever() -> None:
    inside, built, found = threading.Event(), threading.Event(), []

    def other() -> None:
        inside.wait()
        found.extend(parameter.device.type for parameter in Small().parameters())
        built.set()

    thread = threading.Thread(target=other)
    thread.start()
    with EmptyWeights():
        inside.set()
        built.wait()
        assert nn.Linear(2, 2).weight.is_meta
    thread.join()
    assert set(found) == {"cpu"}
    assert not nn.Linear(2, 2).weight.is_meta
