"""Refuses a quickstart whose figures are too low: `python tests/floors.py runs/quickstart`.

The teacher must solve at least three times as many puzzles as chance (of the other pretext tasks,
the times below), and the student's best layer must be at least five points above the best of the
same network with random weights.
"""

import json
import sys
from pathlib import Path

# With one seed each, the quickstart's teachers reached 6.1, 1.33 and 1.54 times chance.
TIMES = {"jigsaw": 3, "context": 1.15, "rotation": 1.25}


def main(workdir: Path) -> None:
    """Prints the figures, and ends with status 1 if one is too low."""
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    solved = summary["puzzles"]["pretext"]
    best = {row["subject"]: row["value"] for row in summary["scores"]["probe"]}
    gain = best["student"] - best["random:student"]
    times = solved["puzzle_accuracy"] / solved["chance"]
    task = solved["task"]
    print(f"{task}: {times:.2f} x chance; student above random: {100 * gain:.1f} points")
    if times < TIMES[task] or gain < 0.05:
        sys.exit(f"too low: at least {TIMES[task]} x chance and 5 points are expected")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
