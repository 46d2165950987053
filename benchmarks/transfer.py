"""Does an unchanged LCM-LoRA speed up a model that was fine-tuned whole on a style it never saw?

    python benchmarks/transfer.py --pack mini-train --style watercolour --minutes 12

Every weight of `mini` learns the style's pictures (`laur train base`); then the LCM-LoRA that was distilled from the
plain `mini` is put on, and `laur evaluate` measures four steps against that very model's own teacher, on captions of
held-out concepts, beside DDIM in four steps and the teacher against itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from evaluate_mini import table
from harness import RESULTS, report
from styled import learn, styled

from laur.cli.app import run
from laur.train.data.reader import TrainingSet


def main() -> int:
    """Fine-tune, evaluate, report."""
    question = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--style", default="watercolour")
    parser.add_argument("--minutes", type=float, default=12.0, help="of fine-tuning")
    parser.add_argument("--learned", type=int, default=240, help="pictures to learn from")
    parser.add_argument("--pictures", type=int, default=100, help="prompts of the evaluation")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--work", type=Path, default=RESULTS / "local" / "transfer")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    sets = styled(options.pack, options.style, options.work, learned=options.learned, measured=options.pictures)
    settings = {
        "batch": 8,
        "optimiser.name": "adamw",
        "optimiser.lr": options.lr,
        "optimiser.warmup": 20,
        "average": 0.95,
    }
    tuned = learn("base", sets[0], options.work / f"{options.style}-base", minutes=options.minutes, settings=settings)
    held = TrainingSet.open(sets[1])
    prompts = options.work / f"{options.style}.txt"
    texts = [max(captions, key=len) for captions in held.captions(np.arange(len(held)))]
    prompts.write_text("\n".join(dict.fromkeys(texts)) + "\n")
    study = options.work / f"{options.style}-evaluation"
    command = ["evaluate", str(tuned), "--adapter", "lcm-lora-mini", "--prompts", str(prompts), "--scorer", "mini"]
    code = run([*command, "--pictures", str(options.pictures), "--out", str(study)])
    if code:
        return code
    result = json.loads((study / "result.json").read_text())
    report("transfer", question, {"style": options.style, "minutes": options.minutes, "figures": result}, options.out)
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
