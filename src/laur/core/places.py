"""Where Laur keeps what is not in the package: what can be made again, and what users put there."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """What can be made again: expanded models, remembered hashes. $LAUR_CACHE, or the platform's cache folder."""
    if named := os.environ.get("LAUR_CACHE"):
        return Path(named).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("laur"))


def home_folder() -> Path:
    """What users put there to use it by name, in models/ and adapters/. $LAUR_HOME, or the platform's data folder."""
    if named := os.environ.get("LAUR_HOME"):
        return Path(named).expanduser()
    from platformdirs import user_data_dir

    return Path(user_data_dir("laur"))
