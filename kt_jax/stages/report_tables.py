"""Tables of scores on a page."""

from collections.abc import Sequence
from typing import Any

from kt_jax.runs import artifacts, files
from kt_jax.runs.artifacts import Artifact


def read(given: Sequence[Artifact[artifacts.Table]]) -> list[dict[str, Any]]:
    """The tables as table.json has them, and as Markdown in `text`."""
    return [
        {
            "name": each.name,
            **files.read_json(each / "table.json"),
            "text": (each / "table.md").read_text(encoding="utf-8"),
        }
        for each in given
    ]
