"""Pictures that clients sent, in the store that holds the results too, so that every worker finds them.

A picture lies there in its canonical form, as a PNG, under a key made of its tenant and its content: what one tenant
sends nobody else can begin from, even who knows its hash (which stands in every file that was made from it). Files
that are not said to be picture or mask yet lie there as they came. None of these keys can be fetched over HTTP.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal
from weakref import WeakValueDictionary

import numpy as np

from laur.core.errors import NotFoundError, PictureError, RecipeError
from laur.input.image import InputPicture, ReadLimits, read_holes, read_mask, read_picture

if TYPE_CHECKING:
    from laur.core.recipe import Recipe
    from laur.serve.store import Store

Kind = Literal["image", "mask"]
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF")
"""What is taken from strangers; of several frames the first is."""
PIXELS = 2**24
"""Of a picture that is sent, 4096 x 4096."""
_REF = re.compile(r"sha256:[0-9a-f]{64}")


def refs_of(recipe: Recipe) -> tuple[str, ...]:
    """What of a recipe's pictures its fields name: image, mask, and masks of adapters' regions."""
    regions = [ref.region for ref in recipe.adapters or () if ref.region is not None and _REF.fullmatch(ref.region)]
    return tuple(dict.fromkeys(ref for ref in (recipe.image, recipe.mask, *regions) if ref is not None))


def mentioned(recipe: Recipe) -> tuple[str, ...]:
    """The same, with what the tags in its prompt name."""
    return tuple(dict.fromkeys((*refs_of(recipe), *_REF.findall(recipe.prompt))))


def require(refs: Sequence[str], pictures: Sequence[InputPicture]) -> None:
    """Raise NotFoundError where one of the references is none of these pictures."""
    known = {picture.ref for picture in pictures}
    for ref in refs:
        if ref not in known:
            raise NotFoundError(_missing(ref))


class Inputs:
    """Pictures by tenant and content. Its methods block: call them from threads."""

    def __init__(self, store: Store, *, pixels: int = PIXELS) -> None:
        """`pixels` is how many a picture may have."""
        self._store = store
        self._limits = ReadLimits(pixels=pixels, formats=FORMATS)
        self._held: WeakValueDictionary[str, InputPicture] = WeakValueDictionary()

    @property
    def assured(self) -> float:
        """Seconds that a picture stays at least after `hold`: a job that begins from it ends before."""
        return self._store.keep / 2

    def read(self, content: bytes, kind: Kind = "image", *, strokes: bool = False) -> InputPicture:
        """A file's picture or mask; `strokes` as for `read_mask`. Raises PictureError."""
        if kind == "image":
            return read_picture(content, self._limits)
        return read_mask(content, self._limits, strokes=strokes)

    def holes(self, content: bytes) -> InputPicture | None:
        """Where a file's picture is transparent, as a mask; None where it is not. Raises PictureError."""
        return read_holes(content, self._limits)

    def add(self, tenant: str, picture: InputPicture) -> str:
        """Keep a picture for a tenant; what its recipes name it by. Raises OutputError."""
        key = _key(tenant, picture.ref)
        if not self._renewed(key):
            file = io.BytesIO()
            picture.image.save(file, "PNG", compress_level=1)
            self._store.put(key, file.getvalue())
        return picture.ref

    def hold(self, tenant: str, refs: Sequence[str]) -> None:
        """See to it that pictures stay for `assured` seconds. Raises NotFoundError, OutputError."""
        for ref in refs:
            if not self._renewed(_key(tenant, ref)):
                raise NotFoundError(_missing(ref))

    def load(self, tenant: str, ref: str) -> InputPicture:
        """A tenant's picture. Raises NotFoundError, OutputError, PictureError where the file is another one now."""
        key = _key(tenant, ref)
        if (held := self._held.get(key)) is not None:
            return held
        try:
            content = self._store.get(key)
        except NotFoundError:
            raise NotFoundError(_missing(ref)) from None
        picture = _decoded(content)
        if picture is None or picture.ref != ref:
            raise PictureError(f"{ref[:17]}… is damaged in the store; send the picture again")
        return self._held.setdefault(key, picture)

    def remove(self, tenant: str, ref: str) -> bool:
        """Forget a picture before its time; whether there was one. Raises OutputError."""
        self._held.pop(_key(tenant, ref), None)
        return self._store.remove(_key(tenant, ref))

    # ---------------------------------------------- files, not yet said to be picture or mask

    def upload(self, tenant: str, content: bytes) -> str:
        """Keep a file as it is, if it is a picture; its number, 64 digits. Raises PictureError, OutputError."""
        self.read(content)
        number = hashlib.sha256(content).hexdigest()
        key = _key(tenant, number, "upload")
        if not self._renewed(key):
            self._store.put(key, content)
        return number

    def uploaded(self, tenant: str, number: str) -> tuple[bytes, float]:
        """A file that was uploaded, and when it came, in Unix seconds. Raises NotFoundError, OutputError."""
        key = _key(tenant, number, "upload")
        try:
            return self._store.get(key), time.time() - self._store.age(key)
        except NotFoundError:
            raise NotFoundError(f"no file {number[:16]}… is here; it never was, or has expired") from None

    def forget(self, tenant: str, number: str) -> bool:
        """Remove an uploaded file; whether there was one. Raises OutputError."""
        return self._store.remove(_key(tenant, number, "upload"))

    def _renewed(self, key: str) -> bool:
        """Whether it is there; from half of its time on that begins anew."""
        try:
            if self._store.age(key) > self.assured:
                self._store.renew(key)
        except NotFoundError:
            return False
        return True


def _key(tenant: str, ref: str, what: str = "input") -> str:
    return f"{hashlib.sha256(f'laur {what} {tenant} {ref}'.encode()).hexdigest()}.{what}"


def _missing(ref: str) -> str:
    return f"the picture {ref[:17]}… is not here; it was never sent, or has expired: send it again"


def _decoded(content: bytes) -> InputPicture | None:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that were bounded when it came
            image = Image.open(io.BytesIO(content), formats=("PNG",))
            return InputPicture(np.array(image)) if image.mode in {"L", "RGB"} else None
    except Exception:  # whatever a damaged file raises
        return None


def checked_deadline(inputs: Inputs, refs: Sequence[str], deadline: float | None, usual: float) -> float:
    """The deadline of a job, not after its pictures' end. Raises RecipeError where a later one is asked for."""
    now = time.time()
    if deadline is None:
        return now + (min(usual, inputs.assured) if refs else usual)
    if refs and deadline > now + inputs.assured:
        hours = inputs.assured / 3600
        raise RecipeError(f"a job that begins from a picture has a deadline of at most {hours:.4g} hours here")
    return deadline
