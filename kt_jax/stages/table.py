"""A table of scores: rows of networks, columns of layers, the paper's figures, and its claims."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kt_jax.evaluation import claims, scores
from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Table
TABLE = "table.json"
_CHOSEN = "chosen"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which scores make a table, and what it claims."""

    title: str
    scores: tuple[str, ...] = options.reads(artifacts.Scores)
    """Where the figures come from."""
    protocol: str = "linear"
    """The rows of scores that count."""
    rows: dict[str, Any]
    """The names of the rows, and the subjects of each: of several, each is another seed of the
    whole pipeline."""
    columns: tuple[str, ...] = (_CHOSEN,)
    """Layers, amounts of labels, or "chosen": the layer that held-out images chose."""
    paper: dict[str, Any] | None = None
    """By the name of a row, the paper's figures by column, in per cent."""
    comparable: str = ""
    """Why the paper's figures are not to be compared with ours; "" where they are."""
    claims: dict[str, Any] | None = None
    """By name, the row that is better, the row that is worse, the column, and the paper's
    difference in points or None. With a fifth entry: they differ by less than so many points."""

    def __post_init__(self) -> None:
        """Refuses tables without rows or columns, and claims about rows that are not there."""
        if not self.rows or not self.columns:
            raise ValueError("rows or columns are empty: name one or more")
        for name, claim in (self.claims or {}).items():
            if len(claim) not in (4, 5):
                raise ValueError(
                    f"claims: {name!r} has {len(claim)} entries: give the better row, the worse "
                    "row, the column, the paper's difference (or None), and perhaps a margin"
                )
            for row in claim[:2]:
                if row not in self.rows:
                    raise ValueError(
                        f"claims: {name!r} names the row {row!r}: the rows are "
                        f"{', '.join(self.rows)}"
                    )
            if claim[2] not in self.columns:
                raise ValueError(
                    f"claims: {name!r} names the column {claim[2]!r}: the columns are "
                    f"{', '.join(self.columns)}"
                )


def run(stage: Stage) -> tuple[artifacts.Table, dict[str, Any]]:
    """Writes table.json and table.md.

    table.json: title, columns, rows (name, cells by column: value, deviation over seeds, seeds;
    paper), claims (name, paper, difference, interval, verdict), comparable, details, split.
    """
    chosen: Options = stage.options
    found = {
        (name, column): claims.read_cell(list(_find(stage, subjects, column)))
        for name, subjects in chosen.rows.items()
        for column in chosen.columns
    }
    missing = [
        name for name in chosen.rows if not any(found[name, x].values for x in chosen.columns)
    ]
    if missing:
        raise ValueError(
            f"{stage.inputs.origin}.rows: {missing[0]!r} has no figures of the protocol "
            f"{chosen.protocol!r} in the columns {', '.join(chosen.columns)}"
        )
    table = {
        "title": chosen.title,
        "columns": list(chosen.columns),
        "rows": [
            {
                "name": name,
                "cells": {
                    column: {
                        "value": found[name, column].mean,
                        "deviation": found[name, column].deviation,
                        "seeds": len(found[name, column].values),
                    }
                    for column in chosen.columns
                    if found[name, column].values
                },
                "paper": (chosen.paper or {}).get(name, {}),
            }
            for name in chosen.rows
        ],
        "claims": [_judge(name, claim, found) for name, claim in (chosen.claims or {}).items()],
        "comparable": chosen.comparable,
        "protocol": chosen.protocol,
        **_describe(stage),
    }
    files.write_json(stage.directory / TABLE, table)
    text = to_markdown(table)
    path = stage.directory / "table.md"
    files.write_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    about = artifacts.Table(title=chosen.title, rows=tuple(chosen.rows))
    return about, {"rows": len(chosen.rows)}


def _find(stage: Stage, subjects: Any, column: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The rows of scores of a cell, a seed each, and where they lie."""
    wanted = (subjects,) if isinstance(subjects, str) else tuple(subjects)
    for subject in wanted:
        for each in stage.inputs.artifacts["scores"]:
            for row in files.read_json(each / scores.SCORES)["rows"]:
                if (row["subject"], row["protocol"]) != (subject, stage.options.protocol):
                    continue
                amount = row.get("labels", "")
                here = amount if amount else row["layer"]
                if here == column or (column == _CHOSEN and not amount and row.get("chosen")):
                    yield each.directory, row


def _judge(name: str, claim: Any, found: Mapping[tuple[str, str], claims.Cell]) -> dict[str, Any]:
    better, worse, column, paper, *margin = claim
    within = margin[0] / 100 if margin else 0.0
    judged = claims.compare(found[better, column], found[worse, column], within=within)
    return {
        "name": name,
        "paper": paper,
        "difference": judged.difference,
        "interval": list(judged.interval),
        "verdict": judged.verdict,
    }


def _describe(stage: Stage) -> dict[str, str]:
    """How the figures of the first row were made."""
    for each in stage.inputs.artifacts["scores"]:
        for row in files.read_json(each / scores.SCORES)["rows"]:
            if row["protocol"] == stage.options.protocol:
                return {name: str(row.get(name, "")) for name in ("details", "split", "selection")}
    return dict.fromkeys(("details", "split", "selection"), "")


def to_markdown(table: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    lines = [f"## {table['title']}", ""]
    head = ["", *table["columns"]]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in table["rows"]:
        cells = [_write_cell(row["cells"].get(column)) for column in table["columns"]]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
        if row["paper"]:
            cells = [str(row["paper"].get(column, "")) for column in table["columns"]]
            note = ", not comparable" if table["comparable"] else ""
            lines.append(f"| *the paper's{note}* | {' | '.join(cells)} |")
    if table["claims"]:
        lines += ["", "| claim | the paper's difference | ours, 95 % interval | verdict |"]
        lines.append("|---|---|---|---|")
        for claim in table["claims"]:
            paper = "" if claim["paper"] is None else f"{claim['paper']:+.1f}"
            low, high = (100 * end for end in claim["interval"])
            ours = f"{100 * claim['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
            lines.append(f"| {claim['name']} | {paper} | {ours} | **{claim['verdict']}** |")
    lines += ["", f"{table['protocol']}: {table['details']}. {table['split']}."]
    if table["comparable"]:
        lines.append(f"The paper's figures are not comparable: {table['comparable']}.")
    return "\n".join(lines) + "\n"


def _write_cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    spread = f" ± {100 * cell['deviation']:.1f}" if cell["seeds"] > 1 else ""
    return f"{100 * cell['value']:.1f}{spread}"


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """What the stage would do.

    Raises:
      ValueError: for a subject that none of the scores has.
    """
    known = {subject for each in inputs.artifacts["scores"] for subject in each.about.subjects}
    for name, subjects in chosen.rows.items():
        for subject in (subjects,) if isinstance(subjects, str) else subjects:
            if known and subject not in known:
                raise ValueError(
                    f"{inputs.origin}.rows: {name!r} names {subject!r}: the scores are of "
                    f"{', '.join(sorted(known))}"
                )
    line = (
        f"{len(chosen.rows)} rows, {len(chosen.columns)} columns, {len(chosen.claims or {})} claims"
    )
    return Plan(artifacts.Table(title=chosen.title, rows=tuple(chosen.rows)), (line,))
