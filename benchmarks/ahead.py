"""Compiles the project's programs for TPUs and GPUs without having any: `make ahead`.

Writes ahead.json, and its tables into docs/accelerators.md. Nothing is run. Parts can be compiled
apart: what is compiled replaces what ahead.json had of the same program and target.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ahead_targets
import harness

JSON = harness.HERE / "ahead.json"
PAGE = harness.HERE.parent / "docs/accelerators.md"
BEGIN, END = "<!-- ahead: begin -->", "<!-- ahead: end -->"
# A TPU's compiler takes minutes for a training; the order is that of the tables.
PROGRAMS = (
    "teacher", "teacher_large", "student", "student_large", "student_accumulated", "features",
    "ridge", "kmeans_step", "kmeans_step_pruned", "kmeans_update", "kmeans_label",
    "kmeans_seeding", "kmeans_sums", "kmeans_prepare",
)  # fmt: skip


def main() -> None:
    """Compiles, merges, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--targets", default=",".join(ahead_targets.TARGETS), help="separated by commas"
    )
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="separated by commas")
    parser.add_argument("--missing", action="store_true", help="only what ahead.json has not")
    parser.add_argument("--install", action="store_true", help="first installs the compilers")
    parser.add_argument("--keep", default="", help="a directory for the optimised programs")
    chosen = parser.parse_args()
    targets, programs = (
        [x for x in each.split(",") if x] for each in (chosen.targets, chosen.programs)
    )
    for name, given, known in (
        ("targets", targets, tuple(ahead_targets.TARGETS)),
        ("programs", programs, PROGRAMS),
    ):
        if unknown := [x for x in given if x not in known]:
            parser.error(f"--{name}={unknown[0]}: choose from {', '.join(known)}")
    for platform in sorted({_platform(target) for target in targets}):
        if chosen.install:
            install(platform)
        elif not (directory := ahead_targets.PACKAGES / platform).exists():
            parser.error(f"{directory} has no compiler for {platform}: add --install")
    found = json.loads(JSON.read_text()) if JSON.exists() else {}
    for target in targets:
        for program in programs:
            if chosen.missing and target in found and program in found[target]:
                continue
            found.setdefault(target, {})[program] = compile_one(target, program, chosen.keep)
            JSON.write_text(json.dumps(found, indent=1) + "\n")
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n".join(make_page(found)) + f"\n{END}{after}")


def install(platform: str) -> None:
    """Installs a platform's compiler in its own directory, unless it is there."""
    directory = ahead_targets.PACKAGES / platform
    if directory.exists():
        return
    options = ("--quiet", "--no-deps", f"--target={directory}")
    wanted = ahead_targets.list_requirements(platform)
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *wanted], check=True)


def compile_one(target: str, program: str, keep: str) -> dict[str, Any]:
    """What the program's own process found, with the versions and the date."""
    with tempfile.TemporaryDirectory() as dump:
        environment = ahead_targets.describe_environment(target, Path(dump))
        job = {"target": target, "program": program, "dump": dump, "keep": keep}
        found = harness.ask("ahead_jobs.py", job, **environment)
    return {"date": str(datetime.date.today()), **found}


def make_page(found: dict[str, Any]) -> list[str]:
    """The tables of what was compiled."""
    known = {
        name: [(program, found[name][program]) for program in PROGRAMS if program in found[name]]
        for name in ahead_targets.TARGETS
        if name in found
    }
    tpus, gpus = (
        {name: rows for name, rows in known.items() if _platform(name) == platform}
        for platform in ("tpu", "cuda")
    )
    left_out = []
    for name in ahead_targets.TARGETS:
        missing = [x for x in PROGRAMS if x not in found.get(name, {})]
        if missing:
            which = "all" if len(missing) == len(PROGRAMS) else ", ".join(missing)
            left_out.append(f"{name} ({which})")
    last = ["", f"Not compiled yet: {'; '.join(left_out)}."] if left_out else []
    return [*_tpu_table(tpus), *_gpu_table(gpus), *last]


def _platform(name: str) -> str:
    return ahead_targets.TARGETS[name][0].platform


def _tpu_table(known: dict[str, Any]) -> list[str]:
    lines = [
        "| TPU | program | compiled in | peak a chip | estimated | of the peak | products | memory "
        "traffic | all-reduce | other collectives | loops | large copies |",
        "|---" * 12 + "|",
    ]
    for target, rows in known.items():
        chip, _, _ = ahead_targets.TARGETS[target]
        for program, row in rows:
            if "error" in row or "absent" in row:
                lines.append(f"| {target} | {program} | {row.get('error', 'not installed')} |")
                continue
            total, least = row["cycles"]["total"], row["least_cycles"]
            estimate = _milliseconds(total / chip.clock)
            at_peak = row["flops"] * chip.clock / chip.flops
            share = f"{at_peak / max(total, 1):.0%}"
            # Few moved rows. Other programs' cheaper branches do nothing, for chunks of padding.
            if program.startswith("kmeans_step") and least < 0.97 * total:
                estimate = f"{_milliseconds(least / chip.clock)} to {estimate}"
                share = f"{at_peak / max(least, 1):.0%} to {share}"
            traffic = f"{row['hbm'] / 1e9:.2f} GB, {_milliseconds(row['hbm'] / chip.bandwidth)}"
            products = row["cycles"].get("products", 0) / max(total, 1)
            cells = [
                target, program, f"{row['seconds']:.0f} s", f"{row['peak'] / 1e9:.2f} GB", estimate,
                share if row["flops"] > 1e9 else "", f"{products:.0%}", traffic,
                *_collectives(row), _loops(row), str(len(row["copies"]) or ""),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _gpu_table(known: dict[str, Any]) -> list[str]:
    lines = [
        "| GPU | program | compiled in | peak a chip | all-reduce | other collectives | loops | "
        "large copies | float atomics |",
        "|---" * 9 + "|",
    ]
    for target, rows in known.items():
        for program, row in rows:
            if "error" in row or "absent" in row:
                lines.append(f"| {target} | {program} | {row.get('error', 'not installed')} |")
                continue
            kinds: dict[str, int] = {}
            for atomics in row["atomics"].values():
                for kind, count in atomics.items():
                    if not kind.endswith(("u32", "s32", "u64")):  # of numbers of rows
                        kinds[kind] = kinds.get(kind, 0) + count
            cells = [
                target, program, f"{row['seconds']:.0f} s", f"{row['peak'] / 1e9:.2f} GB",
                *_collectives(row), _loops(row), str(len(row["copies"]) or ""),
                ", ".join(f"`{kind}` x {count}" for kind, count in sorted(kinds.items())),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _collectives(row: dict[str, Any]) -> tuple[str, str]:
    """The all-reduces, and the names of all others."""
    reduces, others = [], set()
    for each in row["collectives"]:
        if each["kind"] != "all-reduce":
            others.add(each["kind"])
            continue
        how = "asynchronous" if each["asynchronous"] else "synchronous"
        size = each["bytes"] / 1e6
        reduces.append(f"{each['count']} of {each['dtype']}, {size:.4g} MB, {how}")
    return "; ".join(reduces), ", ".join(sorted(others))


def _loops(row: dict[str, Any]) -> str:
    """How often each runs; "?" where that depends on the rows."""
    return ", ".join(str(each["trips"] or "?") for each in row["loops"])


if __name__ == "__main__":
    main()
