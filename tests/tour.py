"""Types the tour: runs every block of docs/tour.md, in their order, in an empty directory.

    python tests/tour.py

Prints each block, its output and its seconds. Ends with status 1 at the first block that fails, or
if the tour takes longer than the page says.
"""

import sys
import tempfile
import time
from pathlib import Path

import pages

PAGE = "tour.md"
MINUTES = 10


def main() -> int:
    blocks = pages.read(PAGE)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kt_jax-tour-") as directory:
        for block in blocks:
            print(f"\n{block.text}", flush=True)
            started = time.monotonic()
            status = pages.run(block, Path(directory))
            print(f"({time.monotonic() - started:.0f} s)")
            if status:
                print(f"this block of {PAGE} ended with status {status}")
                return 1
    spent = time.monotonic() - begun
    print(f"\nthe tour: {len(blocks)} blocks in {spent / 60:.1f} minutes")
    return int(spent > 60 * MINUTES)


if __name__ == "__main__":
    sys.exit(main())
