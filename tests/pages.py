"""Types pages of the documentation: their commands, Python and configs."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
# A block between fences, or indented commands (an older way to write them).
_BLOCKS = re.compile(
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    r"|(?P<commands>(?:^    (?:kt-jax|python -m kt_jax)\b[^\n]*\n)+)",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"# (\w+\.py)\n")


@dataclass(frozen=True)
class Block:
    """What a page shows to be typed: language is bash or python."""

    language: str
    text: str

    @property
    def file(self) -> str:
        """The name of the file that a block of Python is, if its first line says one."""
        named = _FILE.match(self.text) if self.language == "python" else None
        return named[1] if named else ""


def read(page: str) -> list[Block]:
    """The blocks of a page, in their order."""
    blocks = []
    for match in _BLOCKS.finditer((DOCS / page).read_text()):
        if match["commands"]:
            lines = (line.strip() for line in match["commands"].splitlines())
            blocks.append(Block("bash", "".join(f"{line}\n" for line in lines)))
        elif match["language"] in ("bash", "python"):
            blocks.append(Block(match["language"], match["text"]))
    return blocks


def run(block: Block, directory: Path, *, smaller: dict[str, str] | None = None) -> int:
    """Types a block in a directory, and returns its exit status.

    A block of Python that is a file is written there. `smaller` maps texts to those that take their
    place, so that a test trains for seconds.
    """
    text = block.text
    for old, new in (smaller or {}).items():
        text = text.replace(old, new)
    if block.file:
        (directory / block.file).write_text(text)
        return 0
    program = ["bash", "-euo", "pipefail"] if block.language == "bash" else [sys.executable]
    folder = os.path.dirname(sys.executable)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run([*program, "-c", text], cwd=directory, env=environment).returncode
