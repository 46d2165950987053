"""Do 2,000 registered adapters draw as fast as 5, in flat memory, under a budget of 2 GB?

Adapters of rank 4 are written to disk and asked for by their paths, as often as Zipf's law says; pictures are small, so
that the adapters weigh as much as they can. Then the same requests under a budget that a part of what they ask for fits
into: adapters leave, least recently used first, and are read again.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
import numpy as np
import psutil
import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from laur.pipeline.engine import Engine

REGISTERED, BUDGET, RANK = 2000, 2 << 30, 4
FITS = 0.25
"""Of what the requests' adapters add to the bytes that 5 hold, under the tight budget."""


def write(folder: Path, layers: Any, count: int) -> list[str]:
    """Random files; attention layers alone, as most styles on the web."""
    draw = torch.Generator().manual_seed(0)
    found = {n: s.weight for n, s in layers.items() if n.startswith("unet.") and "attn" in n}
    state = {}
    for name, shape in found.items():
        state[f"{name}.lora_A.weight"] = (torch.randn(RANK, *shape[1:], generator=draw) * 0.02).half()
        state[f"{name}.lora_B.weight"] = (torch.randn(shape[0], RANK, generator=draw) * 0.02).half()
    first = next(iter(state))
    names: list[str] = []
    for index in range(count):
        state[first][0, 0] = index / count  # contents differ
        path = folder / f"style-{index}.safetensors"
        save_file(state, path)
        names.append(str(path))
    return names


def draw(engine: Any, names: list[str], order: list[int]) -> float:
    """Pictures a second."""
    from laur.core.recipe import AdapterRef, Recipe

    start = time.perf_counter()
    for group in range(0, len(order), 8):
        recipes = [
            Recipe(
                prompt="a fox",
                seed=seed,
                steps=1,
                width=128,
                height=128,
                adapters=(AdapterRef(name="lcm-lora-mini"), AdapterRef(name=names[index])),
            )
            for seed, index in enumerate(order[group : group + 8])
        ]
        engine.run(recipes)
    return len(order) / (time.perf_counter() - start)


def tight(engine: Engine, names: list[str], orders: list[list[int]]) -> dict[str, float]:
    """The same under the engine's budget, from an empty store: what was read again, and how much was held at most."""
    few, many = [], []
    draw(engine, names, orders[0])
    resident, reads = psutil.Process().memory_info().rss, engine.library.rows.store.reads
    for order in orders:
        few.append(draw(engine, names, [index % 5 for index in order]))
        many.append(draw(engine, names, order))
    return {
        "budget_bytes": engine.library.budget.limit,
        "most_held_bytes": engine.library.budget.most,
        "memory_grown_bytes": psutil.Process().memory_info().rss - resident,
        "distinct_adapters_drawn": len({index for order in orders for index in order}),
        "reads": engine.library.rows.store.reads - reads,
        "requests": 2 * sum(len(order) for order in orders),
        "throughput_over_5": statistics.median(m / f for m, f in zip(many, few, strict=True)),
    }


def main() -> None:
    """Measure and report."""
    from laur.core.recipe import AdapterRef, Recipe
    from laur.pipeline.engine import Engine

    options = harness.arguments(__doc__ or "", repeats=3)
    requests = 64 if options.repeats > 1 else 16
    chance = np.random.default_rng(0)
    rates: dict[str, list[float]] = {"5": [], "2000": []}
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine("mini", device="cpu", budget=BUDGET)
        library = engine.library
        names = write(Path(folder), library.layers(library.checkpoint("mini").key), REGISTERED)
        orders = [[int(n) % REGISTERED for n in chance.zipf(1.2, requests)] for _ in range(options.repeats)]
        draw(engine, names, [index % 5 for index in orders[0]])
        few = library.budget.most
        for order in orders:  # the working set fits: it is read before it is timed
            draw(engine, names, order)
        resident = psutil.Process().memory_info().rss
        for order in orders:
            rates["5"].append(draw(engine, names, [index % 5 for index in order]))
            rates["2000"].append(draw(engine, names, order))
        grown = psutil.Process().memory_info().rss - resident
        times: list[float] = []
        for index in orders[0] * 4:
            recipe = Recipe(prompt="a fox", adapters=(AdapterRef(name=names[index]),), sampler="lcm")
            stage = engine.resolve(recipe).plan.stages[0]
            start = time.perf_counter()
            library.rows.row_set(stage.checkpoint, stage.adapters)
            times.append(time.perf_counter() - start)
        room = few + int(FITS * (library.budget.most - few))
        figures = {
            "pictures_per_second": {name: statistics.median(found) for name, found in rates.items()},
            "throughput_2000_over_5": statistics.median(
                many / few for many, few in zip(rates["2000"], rates["5"], strict=True)
            ),
            "distinct_adapters_drawn": len({index for order in orders for index in order}),
            "activation_p99_ms": 1e3 * float(np.quantile(times, 0.99)),
            "budget_bytes": BUDGET,
            "most_held_bytes": library.budget.most,
            "memory_grown_bytes": grown,
            "reads": library.rows.store.reads,
            "tight": tight(Engine("mini", device="cpu", budget=room), names, orders),
        }
    harness.report("adapter_store", (__doc__ or "").splitlines()[0], figures, options.out)


if __name__ == "__main__":
    main()
