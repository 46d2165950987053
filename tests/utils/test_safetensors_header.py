import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from laur.utils.safetensors_header import WeightsFileError, read_header


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    tensors = {
        "a": torch.zeros(2, 3),
        "b": torch.zeros(5, dtype=torch.bfloat16),
        "scalar": torch.tensor(1.0),
        "nothing": torch.zeros(0),
        "eight": torch.zeros(4, dtype=torch.float8_e4m3fn),
        "flag": torch.tensor([True]),
    }
    save_file(tensors, path, {"who": "me"})
    return path


def with_header(path: Path, header: object, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def test_a_header_says_all(good: Path) -> None:
    header = read_header(good)
    assert {key: (info.dtype, info.shape, info.nbytes) for key, info in header.tensors.items()} == {
        "a": ("F32", (2, 3), 24),
        "b": ("BF16", (5,), 10),
        "scalar": ("F32", (), 4),
        "nothing": ("F32", (0,), 0),
        "eight": ("F8_E4M3", (4,), 4),
        "flag": ("BOOL", (1,), 1),
    }
    assert header.metadata == {"who": "me"}
    assert header.nbytes == 43


@pytest.mark.parametrize("kept", [1, 7, 9, 40, -1])
def test_a_truncated_file_is_known_by_its_length(good: Path, kept: int) -> None:
    good.write_bytes(good.read_bytes()[:kept])
    with pytest.raises(WeightsFileError, match=r"truncated|not a \.safetensors") as error:
        read_header(good)
    assert "\n" not in str(error.value)


def test_bytes_too_many_are_damage_too(good: Path) -> None:
    good.write_bytes(good.read_bytes() + b"x")
    with pytest.raises(WeightsFileError, match="damaged"):
        read_header(good)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 a zip of pickles", "is a pickle under another name"),
        (b"\x80\x02}q\x00.", "is a pickle under another name"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>log in</html>", "web page"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (random.Random(0).randbytes(5_000), "not a .safetensors file"),
        (b"\xff" * 100, "not a .safetensors file"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsFileError, match=words):
        read_header(path)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": ',
        b"[1, 2]",
        b"{" + b"[" * 50_000,
        {"a": 3},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": "04"}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 4]}},
        {"a": {"dtype": None, "shape": None, "data_offsets": None}},
    ],
)
def test_a_header_that_makes_no_sense_is_damage(tmp_path: Path, header: object) -> None:
    path = with_header(tmp_path / "bad.safetensors", header, b"1234")
    with pytest.raises(WeightsFileError, match=r"damaged|not a \.safetensors"):
        read_header(path)


def test_metadata_of_a_wrong_kind_is_none(tmp_path: Path) -> None:
    assert read_header(with_header(tmp_path / "a.safetensors", {"__metadata__": "text"})).metadata == {}


def test_no_damage_escapes_as_another_error(good: Path) -> None:
    """Three hundred random wounds in the header."""
    whole, dice = good.read_bytes(), random.Random(1)
    refused = 0
    for _ in range(300):
        wounded = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            wounded[dice.randrange(min(len(wounded), 300))] = dice.randrange(256)
        good.write_bytes(wounded)
        try:
            read_header(good)
        except WeightsFileError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100
