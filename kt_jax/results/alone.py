"""One stage by itself, outside any run: for commands whose result is one artifact."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from kt_jax.runs import files, lock, marks, pipeline, provenance

_REQUEST = "request.json"


@contextlib.contextmanager
def run(
    name: str, section: Mapping[str, Any], source: Mapping[str, Any], out: Path, *, workers: int = 0
) -> Iterator[Path]:
    """Does a stage in a hidden directory beside `out`; gives its artifact, and then deletes all.

    The same call resumes after a kill.

    Args:
      name: of the stage.
      section: its kind and options; `images` is added.
      source: the set of images that it reads, as in `config.images`.
      out: what the caller makes of the artifact, before this returns.
      workers: processes that decode images.

    Raises:
      ValueError: `out` exists, lies in a run or an artifact, is being made by another process, or
        was begun with other arguments or images; several processes; and as the stage.
    """
    if out.exists():
        raise ValueError(f"--out={out} exists: delete it, or choose another")
    marks.refuse_inside(out)
    if jax.process_count() > 1:
        raise ValueError(f"--out={out} is written by one process, on all its devices: start one")
    work = out.absolute().with_name(f".{out.name}.unfinished")
    with lock.hold(work):
        # Through JSON, as what was written is read.
        request = files.to_plain({"stage": section, "images": source})
        if (work / _REQUEST).exists() and files.read_json(work / _REQUEST) != request:
            raise ValueError(
                f"--out={out}: an unfinished call with other arguments is in {work}: call it again "
                "with the same to resume, delete that directory, or choose another --out"
            )
        files.write_json(work / _REQUEST, request)
        made = work / "run" / name
        config = {
            "images": {"given": source},
            "loader": {"workers": workers},
            name: {**section, "images": "given"},
        }
        try:
            pipeline.run(config, made.parent)
        except (ValueError, FileNotFoundError) as error:
            if not made.exists():  # nothing was begun: what was asked for cannot work
                shutil.rmtree(work)
                raise
            # The ways on that a run offers are not those of this call.
            words, changed, _ = str(error).partition(provenance.WAYS_ON)
            remedy = f"To begin anew, delete {work}" if changed else ""
            raise type(error)(f"{words}{remedy}") from error
        yield made
        shutil.rmtree(work)
