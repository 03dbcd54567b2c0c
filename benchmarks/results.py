"""Records the figures of finished runs, and writes them into README and docs/results.md.

    python benchmarks/results.py record NAME WORKDIR --command="python -m kt_jax.main ..."
    python benchmarks/results.py pages

`record` writes benchmarks/results/NAME.json. `pages` fills each block of the pages that begins with
`<!-- results: KIND NAME ... -->` and ends with `<!-- end -->`. A test compares the pages with the
records. So each figure in a block comes from a run.
"""

import argparse
import datetime
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import HERE, processor

from kt_jax.evaluation import scores, verdict
from kt_jax.runs import artifacts, files, progress
from kt_jax.stages import table

RECORDS = HERE / "results"
PAGES = tuple(HERE.parent / name for name in ("README.md", "docs/results.md", "docs/tables.md"))
BLOCK = re.compile(r"(<!-- results: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
# The stage that trains the student; the others are compared with it.
STUDENT = "student"
NAMES = {
    "student": "student",
    "pretext": "its teacher",
    "hog_colour": "HOG with colours",
    "random:student": "random weights",
    "pixels": "pixels",
}
PROTOCOLS = {"linear": "linear", "knn": "kNN", "few_shot": "10 labels a class"}


def record(workdir: Path, command: str) -> dict[str, Any]:
    """Everything that the pages show of a finished run.

    Raises:
      SystemExit: a stage of the run is not finished.
    """
    config = files.read_json(workdir / "config.json")
    unfinished = [x for x in config["stages"] if not (workdir / x / artifacts.MANIFEST).exists()]
    if unfinished:
        raise SystemExit(f"{workdir}: {unfinished[0]} is not finished: repeat the command")
    manifests = {x: files.read_json(workdir / x / artifacts.MANIFEST) for x in config["stages"]}
    found: dict[str, Any] = {
        "command": command,
        "seed": config["seed"],
        "date": str(datetime.date.today()),
        "machine": processor(),
        "jax": sorted({x["versions"]["jax"] for x in manifests.values()}),
        "commits": sorted({x.get("commit", "") for x in manifests.values()} - {""}),
        "seconds": {name: x["seconds"] for name, x in manifests.items()},
        "puzzles": {
            name: {key: x["facts"][key] for key in ("puzzle_accuracy", "chance")}
            for name, x in manifests.items()
            if "puzzle_accuracy" in x["facts"]
        },
        "networks": [],
        "differences": [],
        "tables": [
            files.read_json(workdir / name / table.TABLE)
            for name, x in manifests.items()
            if x["type"] == artifacts.Table.__name__
        ],
    }
    for name in config["stages"]:
        if (workdir / name / scores.SCORES).exists() and STUDENT in config:
            for rows in split_rows(files.read_json(workdir / name / scores.SCORES)["rows"]):
                standings = verdict.read_standings(rows)
                protocol = rows[0]["protocol"]
                found["networks"] += [describe(x, protocol, rows[0]["n"]) for x in standings]
                if protocol == "linear":
                    found["differences"] += find_differences(workdir / name, standings)
    return found


def split_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """The rows of each protocol; of `few_shot`, those with ten labels a class."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["protocol"] in PROTOCOLS and row.get("labels", "10 a class") == "10 a class":
            groups.setdefault(row["protocol"], []).append(row)
    yield from groups.values()


def describe(standing: verdict.Standing, protocol: str, n: int) -> dict[str, Any]:
    """One network under one protocol."""
    return {
        "subject": standing.subject,
        "protocol": protocol,
        "layer": standing.layer,
        "value": standing.value,
        "interval": standing.interval,
        "n": n,
    }


def find_differences(
    directory: Path, standings: Iterable[verdict.Standing]
) -> Iterator[dict[str, Any]]:
    """How much better the student is than each other network, paired by test image."""
    columns = {x.subject: {"columns": x.columns} for x in standings}
    for subject, row in columns.items():
        if subject != STUDENT:
            value, interval = scores.difference(directory, columns[STUDENT], row)
            yield {"subject": subject, "difference": value, "interval": interval}


def fill(text: str) -> str:
    """A page with its blocks filled from the records."""

    def write(block: re.Match[str]) -> str:
        kind, *names = block[2].split()
        found = [json.loads((RECORDS / f"{name}.json").read_text()) for name in names]
        return block[1] + "\n".join(KINDS[kind](*found)) + "\n" + block[4]

    return BLOCK.sub(write, text)


def write_networks(found: Mapping[str, Any]) -> Iterator[str]:
    """A row per network, a column per protocol; then differences, and how it was measured."""
    protocols = [x for x in PROTOCOLS if any(row["protocol"] == x for row in found["networks"])]
    cells = {(row["subject"], row["protocol"]): row for row in found["networks"]}
    n = found["networks"][0]["n"]
    yield f"| network | {' | '.join(PROTOCOLS[x] for x in protocols)} | 95 % interval of linear |"
    yield f"|---|{'---|' * len(protocols)}---|"
    best = {
        x: max(row["value"] for row in found["networks"] if row["protocol"] == x) for x in protocols
    }
    linear = [row for row in found["networks"] if row["protocol"] == "linear"]
    for row in sorted(linear, key=lambda row: -row["value"]):
        shown = [write_share(cells.get((row["subject"], x)), best[x]) for x in protocols]
        low, high = (100 * end for end in row["interval"])
        layer = f" ({row['layer']})" if row["layer"] != row["subject"] else ""
        name = NAMES.get(row["subject"], row["subject"])
        yield f"| {name}{layer} | {' | '.join(shown)} | {low:.1f} to {high:.1f} |"
    yield ""
    yield f"Per cent of {n:,} test images. The student's lead in points, by image (95 % interval):"
    yield ""
    for row in found["differences"]:
        yield f"- over {NAMES.get(row['subject'], row['subject'])}: {write_points(row)}"
    yield ""
    for name, puzzles in found["puzzles"].items():
        yield (
            f"The stage `{name}` solves {100 * puzzles['puzzle_accuracy']:.1f} % of its held-out "
            f"examples (chance {100 * puzzles['chance']:.1f} %)."
        )
    yield ""
    yield write_origin(found)


def write_share(row: Mapping[str, Any] | None, best: float) -> str:
    """A cell, in bold if it is the best of its column."""
    if row is None:
        return ""
    text = f"{100 * row['value']:.1f}"
    return f"**{text}**" if row["value"] == best else text


def write_points(row: Mapping[str, Any]) -> str:
    """A difference and its interval, in points."""
    low, high = (100 * end for end in row["interval"])
    return f"{100 * row['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


def write_origin(found: Mapping[str, Any]) -> str:
    """The command, and with what it ran."""
    spent = progress.format_seconds(sum(found["seconds"].values()))
    commits = f", commit {' and '.join(found['commits'])}" if found["commits"] else ""
    return (
        f"`{found['command']}`: seed {found['seed']}, {spent} for all stages, "
        f"{found['machine']}, jax {' and '.join(found['jax'])}{commits}, {found['date']}."
    )


def write_overview(*several: Mapping[str, Any]) -> Iterator[str]:
    """A row per run: the student and what it is compared with, by `linear`."""
    names = ("student", "pretext", "hog_colour", "random:student")
    yield f"| images | {' | '.join(NAMES[x] for x in names)} |"
    yield f"|---|{'---|' * len(names)}"
    for found in several:
        linear = {x["subject"]: x for x in found["networks"] if x["protocol"] == "linear"}
        best = max(linear[x]["value"] for x in names)
        cells = " | ".join(write_share(linear[x], best) for x in names)
        yield f"| {found['title']} | {cells} |"


def write_tables(*several: Mapping[str, Any]) -> Iterator[str]:
    """Every table of runs of configs/tables.py, with its claims."""
    for found in several:
        for each in found["tables"]:
            yield table.to_markdown(each)
        yield f"The tables above: {write_origin(found)}"


def write_claims(*several: Mapping[str, Any]) -> Iterator[str]:
    """A row per claim: the paper's difference, ours, and whether it holds."""
    yield "| table | claim | the paper, points | ours, points (95 % interval) | verdict |"
    yield "|---|---|---|---|---|"
    for each in (x for found in several for x in found["tables"]):
        number = each["title"].partition(":")[0].removeprefix("Table ")
        yield from (f"| {number} {table.write_claim(claim)}" for claim in each["claims"])


def write_verdicts(*several: Mapping[str, Any]) -> Iterator[str]:
    """How many claims hold."""
    claims = [claim for found in several for each in found["tables"] for claim in each["claims"]]
    counts = Counter(claim["verdict"] for claim in claims)
    yield (
        f"Verdicts on {len(claims)} claims: {counts['holds']} hold, {counts['refuted']} refuted, "
        f"{counts['not resolved']} not resolved."
    )


KINDS = {
    "networks": write_networks,
    "overview": write_overview,
    "tables": write_tables,
    "claims": write_claims,
    "verdicts": write_verdicts,
}


def main() -> None:
    """Records a run, or fills the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="verb", required=True)
    one = commands.add_parser("record", help="write benchmarks/results/NAME.json")
    one.add_argument("name")
    one.add_argument("workdir", type=Path)
    one.add_argument("--command", required=True, help="the command of the run, for its readers")
    one.add_argument("--title", required=True, help="the images in a few words")
    commands.add_parser("pages", help="fill README.md and docs/")
    given = parser.parse_args()
    if given.verb == "record":
        RECORDS.mkdir(exist_ok=True)
        found = {"title": given.title, **record(given.workdir, given.command)}
        (RECORDS / f"{given.name}.json").write_text(json.dumps(found, indent=1) + "\n")
        return
    for page in PAGES:
        page.write_text(fill(page.read_text()))


if __name__ == "__main__":
    main()
