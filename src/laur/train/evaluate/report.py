"""result.json, and report.html: one page that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laur.core.errors import OutputError
from laur.train.evaluate import metrics
from laur.train.evaluate.plots import plots
from laur.train.evaluate.result import table
from laur.utils.files import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image

    from laur.train.evaluate.run import Study

JSON, HTML = "result.json", "report.html"
SHEET_ROWS = 24
CELL = 144

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1180px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}
table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}
th,td{padding:.35em .7em;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
.plots{display:flex;flex-wrap:wrap;gap:12px}.plots svg{width:372px;font:11px system-ui,sans-serif}
img{max-width:100%}dt{font-weight:600}dd{margin:0 0 .5em 0}.note{color:#555}
"""


def write(folder: Path, result: Mapping[str, Any], sheet: Image | None) -> tuple[Path, Path]:
    """Both files. Errors: OutputError."""
    try:
        first = atomic_write(folder / JSON, json.dumps(result, indent=1, ensure_ascii=False).encode())
        return first, atomic_write(folder / HTML, page(result, sheet).encode())
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from None


def sheet(study: Study, rows: int = SHEET_ROWS) -> Image:
    """The first prompts, a row each: every subject from the first seed."""
    from laur.utils.sheet import SheetStyle, contact_sheet

    count = min(rows, len(study.wish.prompts))
    names = [subject.name for subject in study.subjects]
    picked = {name: study.keys[name][: count * study.wish.tries : study.wish.tries] for name in names}
    columns = {name: study.gallery.pictures(keys) for name, keys in picked.items()}
    return contact_sheet(
        [[columns[name][row] for name in names] for row in range(count)],
        row_labels=[prompt.text for prompt in study.wish.prompts[:count]],
        column_labels=names,
        style=SheetStyle(cell=(CELL, CELL)),
    )


def page(result: Mapping[str, Any], picture: Image | None) -> str:
    """The page. Whatever comes from names and prompts is escaped; it loads nothing and runs no script."""
    title = f"{result['model']['name']}: few steps against the teacher"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_about(result))}</p>",
        "<h2>Numbers</h2>",
        _table(*table(result)),
        f"<p class=note>{escape(_how(result))}</p>",
        "<h2>Over the number of steps</h2>",
        f"<div class=plots>{''.join(plots(result))}</div>",
    ]
    if any("against_data" in row for row in result["subjects"]):
        parts += ["<h2>Against the set's own pictures</h2>", _table(*_data_table(result))]
    if picture is not None:
        parts += ["<h2>Pictures</h2>", f'<img alt="a row for each prompt" src="{_embedded(picture)}">']
    parts += ["<h2>What the numbers say</h2>", _glossary(result)]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
    return f"{head}<body>{''.join(parts)}</body></html>\n"


def _about(result: Mapping[str, Any]) -> str:
    prompts = result["prompts"]
    seeds = f", {prompts['tries']} seeds each" if prompts["tries"] > 1 else ""
    return f"{prompts['count']} prompts ({prompts['source']}){seeds}. Features: {result['features']}. " + (
        f"Captions are judged by {result['scorer']['name']} among {result['scorer']['choices']}{_own_accuracy(result)}."
        if result["scorer"]["name"]
        else "Captions are not judged."
    )


def _own_accuracy(result: Mapping[str, Any]) -> str:
    """What the scorer's file says that it reached on pictures of concepts that it never saw."""
    try:
        said: dict[str, float] = json.loads(result["scorer"]["says"].get("held_out", "{}"))
        parts = [f"{100 * value:.0f} % {how}" for how, value in said.items() if how != "pictures"]
    except (ValueError, TypeError, AttributeError):
        return ""
    return f" (itself, on rendered pictures of concepts that it never saw: {', '.join(parts)})" if parts else ""


def _how(result: Mapping[str, Any]) -> str:
    spread = result["intervals"]
    return (
        f"In brackets the {100 * spread['level']:g} % interval over {spread['resamples']} resamples of the prompts. "
        "Distances are to the teacher's pictures from other seeds; the first row shows how far the teacher is from "
        "itself, which is the least that anything can be told from. The excess is what lies above that row, in per "
        "cent of the excess of DDIM with four steps."
    )


def _data_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    from laur.train.evaluate.result import cell

    rows: list[dict[str, Any]] = [row for row in result["subjects"] if row.get("against_data")]
    keys = [metric.key for metric in metrics.DISTRIBUTION if any(metric.key in row["against_data"] for row in rows)]
    body = [[row["name"], *(cell(key, row["against_data"][key]) for key in keys)] for row in rows]
    return ["", *(metrics.ALL[key].title for key in keys)], body


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(word)}</th>" for word in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(word)}</td>' for word in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _glossary(result: Mapping[str, Any]) -> str:
    used = {key for row in result["subjects"] for key in row["metrics"]}
    terms = [f"<dt>{escape(m.title)}</dt><dd>{escape(m.says)}</dd>" for key, m in metrics.ALL.items() if key in used]
    return f"<dl>{''.join(terms)}</dl>"


def _embedded(picture: Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=86)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
