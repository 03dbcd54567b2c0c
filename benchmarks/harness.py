"""What benchmarks share: jobs in processes of their own, and with what they were measured.

A benchmark NAME.py asks NAME_jobs.py, job by job, and writes NAME.json, with every measurement, and
NAME.md. Linux only: memory and the processor's name are read from there.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def peak_rss() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processor() -> str:
    """The processor's name."""
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return model[1] if model else platform.machine()


def find_versions(packages: Sequence[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def say(line: str) -> None:
    """Progress, beside the result."""
    print(line, file=sys.stderr, flush=True)


def ask(script: str, job: dict[str, Any], **environment: str) -> dict[str, Any]:
    """What a job's process measured, or {"absent": why} where a peer is not installed.

    Raises:
      SystemExit: it failed; what it said stands above.
    """
    found = subprocess.run(
        [sys.executable, str(HERE / script), json.dumps(job)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if found.returncode:
        raise SystemExit(f"{script} ended with {found.returncode} for {job}: see above")
    measured = json.loads(found.stdout.splitlines()[-1])
    say(f"{job}: {measured}")
    return measured


def answer(run_job: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The other end of `ask`."""
    try:
        found = run_job(json.loads(sys.argv[1]))
    except ImportError as error:
        if error.name is None or error.name.startswith("kt_jax"):
            raise
        found = {"absent": str(error)}
    print(json.dumps(found))


def parse(doc: str, **flags: str) -> argparse.Namespace:
    """--repeats, --out and the benchmark's own flags (name: help)."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="turns of every system")
    parser.add_argument("--out", type=Path, default=HERE, help="where the .json and the .md go")
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats={options.repeats}: give 1 or more")
    return options


def write(
    name: str,
    found: dict[str, Any],
    options: argparse.Namespace,
    packages: Sequence[str],
    make_page: Callable[[dict[str, Any]], Sequence[str]],
) -> None:
    """Writes NAME.json and, made from it alone, NAME.md; prints the page."""
    found |= {
        "date": str(datetime.date.today()),
        "machine": processor(),
        "python": platform.python_version(),
        "versions": find_versions(packages),
        "repeats": options.repeats,
    }
    (options.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    page = "\n".join(make_page(found))
    (options.out / f"{name}.md").write_text(page)
    print(page)
