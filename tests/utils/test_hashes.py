"""Hashes that model sites show."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from laur.utils.hashes import tensors_sha256


def test_metadata_change_the_files_hash_but_not_the_tensors(tmp_path):
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "plain.safetensors")
    save_file(tensors, tmp_path / "named.safetensors", metadata={"ss_output_name": "ink"})
    save_file({**tensors, "b": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    plain, named, other = (tmp_path / f"{name}.safetensors" for name in ("plain", "named", "other"))
    assert tensors_sha256(plain) == tensors_sha256(named) != tensors_sha256(other)
    data = plain.read_bytes()
    assert tensors_sha256(plain) == hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="no safetensors file"):
        tensors_sha256(tmp_path / "x")
