"""Pictures on the command line: read, named by content, and kept where `laur reproduce` finds them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laur.input.image import InputPicture


def read_inputs(image: Path | None, mask: Path | None) -> dict[str, InputPicture]:
    """The pictures of --image and --mask that were given, by the Recipe's field. Raises PictureError."""
    found: dict[str, InputPicture] = {}
    if image is not None or mask is not None:
        from laur.input.image import read_mask, read_picture

        if image is not None:
            found["image"] = read_picture(image)
        if mask is not None:
            found["mask"] = read_mask(mask)
    return found


def keep_inputs(pictures: Iterable[InputPicture]) -> None:
    """Copies in $LAUR_HOME/inputs: a file's metadata names its pictures by hash alone. Raises OutputError."""
    from laur.input.store import user_folder

    for picture in pictures:
        user_folder().save(picture)
