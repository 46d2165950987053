"""Does a training run that is killed at random moments end at the same weights, bit for bit, as one never killed?

The run is `laur train lcm-lora` of mini on a set of drawn shapes, through the command line. A state is saved after
every update, so that kills hit the saving of states as well as the computing. Each kill is SIGKILL, at a moment drawn
over the time that one start and a few updates take; the run is then started again with the same command.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import report

UPDATES = 40
SHAPES = ("circle", "square", "triangle")
COLOURS = ("red", "green", "blue", "gold")
LAUR = (sys.executable, "-m", "laur")


def pictures(folder: Path) -> Path:
    """A folder of a dozen shapes whose file names say what they show."""
    from PIL import Image, ImageDraw

    folder.mkdir()
    corners = {"square": [(60, 60), (196, 60), (196, 196), (60, 196)], "triangle": [(128, 40), (220, 210), (36, 210)]}
    for colour in COLOURS:
        for shape in SHAPES:
            picture = Image.new("RGB", (256, 256), "white")
            draw = ImageDraw.Draw(picture)
            if shape == "circle":
                draw.ellipse((48, 48, 208, 208), fill=colour)
            else:
                draw.polygon(corners[shape], fill=colour)
            picture.save(folder / f"{colour} {shape}.png")
    return folder


def command(data: Path, out: Path) -> list[str]:
    """The run: small batches, float32, a state after every update."""
    settings = ("save.updates=1", "sheet.updates=0", "objective.rank=8")
    return [
        *(*LAUR, "train", "lcm-lora", "--data", str(data), "--out", str(out), "--device", "cpu"),
        *("--updates", str(UPDATES), "--batch", "2", "--precision", "float32", "--seed", "3"),
        *(part for setting in settings for part in ("--set", setting)),
    ]


def begin(data: Path, out: Path) -> subprocess.Popen[bytes]:
    """The run in a process of its own, on one thread, as bits may hang on their number."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(data, out), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(data: Path, out: Path) -> float:
    """Run to the end; seconds."""
    began = time.perf_counter()
    process = begin(data, out)
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    return time.perf_counter() - began


def state(out: Path) -> dict[str, str]:
    """Hashes of the last state's files: weights, optimiser, average, target."""
    place = max((out / "states").glob("[0-9]*"))
    assert int(place.name) == UPDATES
    files = sorted(place.glob("*.safetensors"))
    return {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def losses(out: Path) -> list[tuple[int, float]]:
    """By update, as the journal has them."""
    lines = (json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines())
    return [(line["update"], line["loss"]) for line in lines]


def kill_often(data: Path, out: Path, *, kills: int, seconds: float, chance: random.Random) -> list[dict[str, Any]]:
    """Start and kill; what each kill found."""
    found: list[dict[str, Any]] = []
    known: set[Path] = set()
    while len(found) < kills:
        process = begin(data, out)
        wait = chance.uniform(0, seconds)
        try:
            process.communicate(timeout=wait)
            raise SystemExit("the run ended before it had been killed often enough; raise UPDATES")
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        states = sorted((out / "states").glob("[0-9]*"))
        half = set((out / "states").glob(".*.tmp")) - known
        known |= half
        found.append(
            {
                "after_s": round(wait, 2),
                "states_after": int(states[-1].name) if states else 0,
                "in_the_middle_of_saving": bool(half),
            }
        )
        print(found[-1], flush=True)
    return found


def kill_while_saving(data: Path, out: Path, *, kills: int) -> list[dict[str, Any]]:
    """Start, wait for a state that is not whole yet, kill; what each kill left."""
    found: list[dict[str, Any]] = []
    while len(found) < kills:
        known = set((out / "states").glob(".*.tmp"))
        process = begin(data, out)
        while not (half := set((out / "states").glob(".*.tmp")) - known) and process.poll() is None:
            time.sleep(0.0005)
        process.kill()
        process.communicate()
        left = [place for place in half if place.exists()]
        if not half:
            raise SystemExit("the run ended before it had been killed often enough; raise UPDATES")
        states = sorted(int(place.name) for place in (out / "states").glob("[0-9]*"))
        files = sorted(file.name for place in left for file in place.iterdir())
        found.append({"states_after": states[-1] if states else 0, "half_a_state": bool(left), "of_its_files": files})
        print(found[-1], flush=True)
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--aimed", type=int, default=6, help="more kills, in the middle of saving")
    parser.add_argument("--out", type=Path, default=None, help="where the JSON goes (default: benchmarks/results)")
    found = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "set"
        source = pictures(folder / "shapes")
        subprocess.run([*LAUR, "data", "prepare", "folder", str(source), "--out", str(data)], check=True)
        whole, killed = folder / "whole", folder / "killed"
        seconds = finish(data, whole)
        # kills in a row make UPDATES / kills updates each on average, so that the run is not over before the last one
        reach = time_of_a_start(whole, seconds) + 2 * seconds / found.kills
        kills = kill_often(data, killed, kills=found.kills, seconds=reach, chance=random.Random(seed))
        aimed = kill_while_saving(data, killed, kills=found.aimed)
        finish(data, killed)
        same = {name: digest == state(killed)[name] for name, digest in state(whole).items()}
        figures = {
            "kills": len(kills),
            "kills_in_the_middle_of_saving": sum(kill["in_the_middle_of_saving"] for kill in kills),
            "aimed_at_the_saving": len(aimed),
            "of_these_half_a_state_was_left": sum(kill["half_a_state"] for kill in aimed),
            "same_bits": same,
            "same_journal": losses(whole) == losses(killed),
            "updates": UPDATES,
            "seconds_of_an_unkilled_run": round(seconds, 1),
            "seed_of_the_moments": seed,
            "each": kills,
            "each_aimed": aimed,
        }
    report("train_resume", (__doc__ or "").splitlines()[0], figures, found.out)
    assert all(same.values()), "not the same bits"
    assert figures["same_journal"], "not the same journal"


def time_of_a_start(out: Path, seconds: float) -> float:
    """What of an unkilled run's time was not training."""
    lines = (out / "journal.jsonl").read_text().splitlines()
    return seconds - json.loads(lines[-1])["seconds"]


if __name__ == "__main__":
    main()
