"""A table of scores: a row per network, a column per layer, the paper's values, and claims."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kt_jax.evaluation import claims, scores
from kt_jax.runs import artifacts, files, options, progress
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Table
TABLE = "table.json"
_CHOSEN = "chosen"
_SECONDS = "seconds"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a table."""

    title: str
    scores: tuple[str, ...] = options.reads(artifacts.Scores)
    """The stages whose scores fill the table."""
    protocol: str = "linear"
    """The protocol whose scores count."""
    protocols: dict[str, Any] | None = None
    """Other protocols by column, such as {"kNN": "knn"}. The column shows the value at the layer
    that held-out images chose."""
    rows: dict[str, Any]
    """The subjects of each row, by the name of the row. Several subjects are seeds of the whole
    pipeline."""
    columns: tuple[str, ...] = (_CHOSEN,)
    """Layers, amounts of labels, or "chosen": the layer that held-out images chose."""
    paper: dict[str, Any] | None = None
    """The paper's values in per cent: by the name of a row, then by column."""
    comparable: str = ""
    """Why the paper's values cannot be compared with ours; "" if they can."""
    stages: tuple[str, ...] = options.reads(default=())
    """Stages whose facts fill columns."""
    facts: dict[str, Any] | None = None
    """Facts by column. A fact is in the manifest of a row's stage: "puzzle_accuracy",
    "label_accuracy" or "stability". "seconds" is the total time of the row's stages."""
    claims: dict[str, Any] | None = None
    """Claims by name: the better row, the worse row, the column, and the paper's difference in
    points or None. A fifth entry is a margin: the claim is then that the rows differ by less than
    this many points."""

    def __post_init__(self) -> None:
        """Refuses tables without rows or columns, and claims about rows that do not exist."""
        if not self.rows or not self.columns:
            raise ValueError("rows or columns are empty: name one or more")
        for option in ("facts", "protocols"):
            unknown = [x for x in getattr(self, option) or {} if x not in self.columns]
            if unknown:
                raise ValueError(
                    f"{option}: {unknown[0]!r} is no column: the columns are "
                    f"{', '.join(self.columns)}"
                )
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
            measured = [column for column in self.columns if column not in (self.facts or {})]
            if claim[2] not in measured:
                raise ValueError(
                    f"claims: {name!r} names the column {claim[2]!r}: the columns of scores are "
                    f"{', '.join(measured)}"
                )


def run(stage: Stage) -> tuple[artifacts.Table, dict[str, Any]]:
    """Writes table.json and table.md.

    table.json has title, columns, rows (name, paper, and cells by column: value, deviation over
    seeds, seeds, interval, text), claims (name, paper, difference, interval, verdict), comparable,
    details and split.
    """
    chosen: Options = stage.options
    found = {
        (name, column): _read_cell(stage, subjects, column)
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
                        "interval": claims.interval(found[name, column]),
                        "text": _write_cell(found[name, column], _fact(chosen, column)),
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


def _fact(chosen: Options, column: str) -> str:
    return str((chosen.facts or {}).get(column, ""))


def _read_cell(stage: Stage, subjects: Any, column: str) -> claims.Cell:
    """The cell of a row and a column, from scores or facts."""
    fact = _fact(stage.options, column)
    if not fact:
        return claims.read_cell(list(_find(stage, subjects, column)))
    named = (subjects,) if isinstance(subjects, str) else tuple(subjects)
    of_row = [each for each in stage.inputs.artifacts["stages"] if each.name in named]
    if fact == _SECONDS:
        return claims.Cell((sum(float(each.manifest["seconds"]) for each in of_row),), None)
    facts = [each.manifest["facts"].get(fact) for each in of_row]
    return claims.Cell(tuple(float(x) for x in facts if x is not None), None)


def _find(stage: Stage, subjects: Any, column: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The rows of scores of a cell, one per seed, and their artifacts."""
    wanted = (subjects,) if isinstance(subjects, str) else tuple(subjects)
    other = (stage.options.protocols or {}).get(column)
    protocol, column = (other, _CHOSEN) if other else (stage.options.protocol, column)
    for subject in wanted:
        for each in stage.inputs.artifacts["scores"]:
            found = [
                row
                for row in files.read_json(each / scores.SCORES)["rows"]
                if (row["subject"], row["protocol"]) == (subject, protocol) and _is_of(row, column)
            ]
            yield from ((each.directory, row) for row in found)
            if found:  # pixels are in every stage of scores: the first one counts
                break


def _is_of(row: Mapping[str, Any], column: str) -> bool:
    amount = row.get("labels", "")
    if amount:
        return bool(amount == column)
    return bool(row["layer"] == column or (column == _CHOSEN and row.get("chosen")))


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
    """How the values of the first row were measured."""
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
        cells = [row["cells"].get(column, {}).get("text", "") for column in table["columns"]]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
        if row["paper"]:
            cells = [str(row["paper"].get(column, "")) for column in table["columns"]]
            note = ", not comparable" if table["comparable"] else ""
            lines.append(f"| *the paper's{note}* | {' | '.join(cells)} |")
    if table["claims"]:
        lines += ["", "| claim | the paper's difference | ours, 95 % interval | verdict |"]
        lines.append("|---|---|---|---|")
        for claim in table["claims"]:
            lines.append(write_claim(claim))
    lines += ["", f"{table['protocol']}: {table['details']}. {table['split']}."]
    if table["comparable"]:
        lines.append(f"The paper's figures are not comparable: {table['comparable']}.")
    return "\n".join(lines) + "\n"


def write_claim(claim: Mapping[str, Any]) -> str:
    """A claim as a row of Markdown: name, the paper's points, ours with their interval, verdict."""
    paper = "" if claim["paper"] is None else f"{claim['paper']:+.1f}"
    low, high = (100 * end for end in claim["interval"])
    ours = f"{100 * claim['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"| {claim['name']} | {paper} | {ours} | **{claim['verdict']}** |"


def _write_cell(cell: claims.Cell, fact: str) -> str:
    """The text of a cell: per cent, or a time."""
    if not cell.values:
        return ""
    if fact == _SECONDS:
        return progress.format_seconds(cell.mean)
    spread = f" ± {100 * cell.deviation:.1f}" if len(cell.values) > 1 else ""
    return f"{100 * cell.mean:.1f}{spread}"


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: none of the scores has a subject of that name.
    """
    known = {subject for each in inputs.artifacts["scores"] for subject in each.about.subjects}
    known |= {each.name for each in inputs.artifacts.get("stages", ())} if known else set()
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
