"""Types the tour: runs every block of docs/tour.md, in their order, in an empty directory.

    python tests/tour.py

Prints each block, its output and its seconds. Ends with status 1 at the first block that fails, or
if the tour takes longer than the page says.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs/tour.md"
MINUTES = 10


def main() -> int:
    blocks = re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    folder = os.path.dirname(sys.executable)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kt_jax-tour-") as directory:
        for language, block in blocks:
            print(f"\n{block}", flush=True)
            program = ["bash", "-euo", "pipefail"] if language == "bash" else [sys.executable]
            started = time.monotonic()
            done = subprocess.run([*program, "-c", block], cwd=directory, env=environment)
            print(f"({time.monotonic() - started:.0f} s)")
            if done.returncode:
                print(f"this block of {PAGE.name} ended with status {done.returncode}")
                return 1
    spent = time.monotonic() - begun
    print(f"\nthe tour: {len(blocks)} blocks in {spent / 60:.1f} minutes")
    return int(spent > 60 * MINUTES)


if __name__ == "__main__":
    sys.exit(main())
