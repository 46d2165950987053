"""A study as plain values: what goes into result.json, and what the table, the plots and the page are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from laur import __version__
from laur.train.evaluate import metrics
from laur.train.evaluate.measure import BALLS, NEIGHBOURS, Column, Measured, excess
from laur.utils.metrics.kernels import SIGMA

if TYPE_CHECKING:
    from laur.train.evaluate.run import Study

FORMAT = "laur-evaluation/1"
Row = dict[str, Any]


def to_dict(study: Study, *, source: str) -> dict[str, Any]:
    """Ready for JSON. `source` says where the prompts come from."""
    wish = study.wish
    return {
        "format": FORMAT,
        "version": __version__,
        "model": {"name": study.student.name, "sha256": study.student.sha256},
        "teacher": {"name": study.teacher.name, "sha256": study.teacher.sha256},
        "features": study.network,
        "scorer": {"name": study.scorer, "choices": study.choices, "says": dict(study.scorer_says)},
        "prompts": {"source": source, "count": len(wish.prompts), "tries": wish.tries},
        "intervals": {"level": wish.level, "resamples": wish.resamples, "of": "prompts"},
        "settings": {"precision_recall_k": NEIGHBOURS, "density_coverage_k": BALLS, "mmd_sigma": SIGMA},
        "subjects": [_subject(study, row.name) for row in study.subjects],
        "first_prompts": [prompt.text for prompt in wish.prompts[:24]],
    }


def _subject(study: Study, name: str) -> Row:
    subject = next(row for row in study.subjects if row.name == name)
    example = subject.recipes(study.wish.prompts[:1], 1, study.wish.size)[0]
    found: Row = {"name": name, "role": subject.role, "steps": subject.steps, "first_recipe": example.to_dict()}
    columns: dict[str, Column] = {**study.columns, **study.likeness}
    if study.tries is not None:
        columns["caption"] = study.tries.found
    found["metrics"] = {key: _entry(study, key, column, name) for key, column in columns.items() if name in column}
    if name in study.subsets:
        found["kid_subsets"] = dict(study.subsets[name])
    if study.data:
        level = study.wish.level
        found["against_data"] = {
            key: column[name].interval(level).to_dict() for key, column in study.data.items() if name in column
        }
    if study.tries is not None and study.tries.passes:
        found["pass_at_k"] = {
            str(k): column[name].interval(study.wish.level).to_dict() for k, column in study.tries.passes.items()
        }
    return found


def _entry(study: Study, key: str, column: Column, name: str) -> Row:
    level = study.wish.level
    entry: Row = column[name].interval(level).to_dict()
    floor = floor_of(study, key, column)
    if floor is not None:
        entry["floor"] = floor.value
    yardstick = column.get(study.of_role("yardstick").name)
    student = next(row for row in study.subjects if row.name == name).role == "student"
    if student and key not in {"psnr", "distance"} and floor is not None and yardstick is not None:
        above = excess(column[name], floor, yardstick, level)
        entry["excess_percent_of_yardstick"] = None if above is None else above.to_dict()
    return entry


def floor_of(study: Study, key: str, column: Column) -> Measured | None:
    """What the teacher itself reaches against its own other seeds; for the caption, from the same seeds."""
    role = "reference" if key in {"psnr", "distance"} else "teacher"
    return column.get(study.of_role(role).name)


def shown(key: str, value: float) -> str:
    """A number as the table has it."""
    metric = metrics.ALL[key]
    return f"{100 * value:.0f} %" if metric.percent else f"{value:.{metric.digits}f}"


def cell(key: str, entry: Mapping[str, Any]) -> str:
    """Value and interval."""
    return f"{shown(key, entry['value'])} ({shown(key, entry['low'])} to {shown(key, entry['high'])})"


def table(result: Mapping[str, Any], keys: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Head and rows of words: a row a subject, a column a metric, and KID's excess last."""
    rows: list[Row] = [row for row in result["subjects"] if row["metrics"]]
    present = [key for key in metrics.ALL if any(key in row["metrics"] for row in rows) and (not keys or key in keys)]
    head = ["", *(metrics.ALL[key].title for key in present), "excess KID, % of DDIM-4's"]
    found: list[list[str]] = []
    for row in rows:
        words = [row["name"] + (" = noise floor" if row["role"] == "teacher" else "")]
        words += [cell(key, row["metrics"][key]) if key in row["metrics"] else "" for key in present]
        found.append([*words, excess_words(row)])
    return head, found


def excess_words(row: Mapping[str, Any], key: str = "kid") -> str:
    """The excess of a student in words; empty for the others."""
    entry = row["metrics"].get(key, {})
    if "excess_percent_of_yardstick" not in entry:
        return ""
    found = entry["excess_percent_of_yardstick"]
    if found is None:
        return "DDIM-4 is within the noise"
    return f"{found['value']:.0f} % ({found['low']:.0f} to {found['high']:.0f})"
