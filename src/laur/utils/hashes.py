"""Hashes of weight files as model sites show them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_BLOCK = 2**20


def tensors_sha256(path: str | os.PathLike[str]) -> str:
    """sha256 of a .safetensors file without its header, so that edited metadata do not change it; AutoV3 are its first
    twelve digits, and A1111 calls it a LoRA's hash. Raises OSError; ValueError if the header is longer than the file.
    """
    with Path(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if 8 + size > os.fstat(file.fileno()).st_size:
            raise ValueError(f"{str(path)!r} is no safetensors file: its header would be longer than the file")
        file.seek(8 + size)
        digest = hashlib.sha256()
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
