"""How near do `mini` and its LCM-LoRA come to their teacher in 1, 2, 4 and 8 steps?

    python benchmarks/evaluate_mini.py --pictures 256

Runs `laur evaluate` on benchmarks/prompts/mini_held_out.jsonl: captions of pictures whose concepts lie in the held-out
fold. Drawing takes about an hour on two cores; what is drawn is kept in --work, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from harness import RESULTS, commit, machine

from laur.cli.app import run
from laur.train.evaluate.metrics import ALL
from laur.train.evaluate.result import cell, excess_words

PROMPTS = Path(__file__).parent / "prompts" / "mini_held_out.jsonl"
COLUMNS = ("kid", "fd", "mmd", "precision", "recall", "coverage", "caption", "psnr")


def table(result: dict[str, Any]) -> str:
    """As docs/evaluation.md has it."""
    keys = [key for key in COLUMNS if any(key in row["metrics"] for row in result["subjects"])]
    lines = ["| | " + " | ".join(ALL[key].title for key in keys) + " | excess KID, % of DDIM-4's |"]
    lines.append("|---|" + "---|" * (len(keys) + 1))
    for row in result["subjects"]:
        words = [cell(key, row["metrics"][key]) if key in row["metrics"] else "" for key in keys]
        lines.append(f"| {row['name']} | " + " | ".join([*words, excess_words(row)]) + " |")
    return "\n".join(lines)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--work", type=Path, default=RESULTS / "local" / "evaluate_mini")
    parser.add_argument("--adapter", default="lcm-lora-mini")
    parser.add_argument("--eta", action="append", default=[], help="of LCM's sampler, beside its usual 1")
    parser.add_argument("--out", type=Path, default=RESULTS / "evaluate_mini.json")
    args = parser.parse_args()
    command = ["evaluate", "mini", "--prompts", str(PROMPTS), "--pictures", str(args.pictures), "--out", str(args.work)]
    code = run([*command, "--adapter", args.adapter, *(part for eta in args.eta for part in ("--eta", eta))])
    if code:
        return code
    result = json.loads((args.work / "result.json").read_text())
    question = (__doc__ or "").partition("\n")[0]
    found = {"question": question, "commit": commit(), "machine": machine(), "figures": result}
    args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
