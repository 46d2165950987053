"""What each task sets otherwise than `RunConfig` does, where the user says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "base": {
        "updates": 20_000,
        "batch": 256,
        "average": 0.9995,
        "optimiser": {"name": "muon", "lr": 3e-3, "rest_lr": 1e-3, "betas": (0.9, 0.98), "warmup": 300, "final": 0.02},
        "save": {"updates": 1000},
        "sheet": {"updates": 1000},
    },
    "vae": {
        "updates": 5_000,
        "batch": 32,
        "average": 0.999,
        "data": {"dropout": 0.0},
        "optimiser": {"lr": 1e-3, "warmup": 100},
    },
    "lcm": {
        "updates": 2_000,
        "batch": 32,
        "average": 0.98,
        "data": {"dropout": 0.0},
        "optimiser": {"lr": 1e-4, "weight_decay": 0.0, "warmup": 50},
    },
    "lcm-lora": {
        "updates": 800,
        "batch": 24,
        "average": 0.98,
        "data": {"dropout": 0.0},
        "optimiser": {"lr": 6e-4, "weight_decay": 0.0, "warmup": 30},
        "save": {"updates": 100},
        "sheet": {"updates": 100},
    },
    "lcf": {
        "updates": 500,
        "batch": 16,
        "average": 0.98,
        "data": {"dropout": 0.0},
        "optimiser": {"lr": 1e-4, "weight_decay": 0.0, "warmup": 30},
        "save": {"updates": 100},
        "sheet": {"updates": 100},
    },
    "style": {
        "updates": 400,
        "batch": 8,
        "average": 0.98,
        "optimiser": {"lr": 5e-4, "weight_decay": 0.0, "warmup": 20},
        "save": {"updates": 100},
        "sheet": {"updates": 100},
    },
}
