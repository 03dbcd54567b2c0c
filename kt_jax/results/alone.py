"""Runs one stage outside of any run, for commands whose result is one artifact."""

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
    name: str, section: Mapping[str, Any], source: Mapping[str, Any], out: Path
) -> Iterator[Path]:
    """Runs a stage in a hidden directory next to `out`, and yields the directory of its artifact.

    Inside the `with`, the caller makes `out` from the artifact. Afterwards the hidden directory is
    deleted. After a kill, the same call resumes.

    Args:
      name: the name of the stage.
      section: its kind and options, without `images`.
      source: the set of images that it reads, as in `config.images`.
      out: the file or directory that the caller makes.

    Raises:
      ValueError: `out` exists, lies in a run or an artifact, is being made by another process, or
        was begun with other arguments or images; there are several processes; or the stage
        raises it.
    """
    if out.exists():
        raise ValueError(f"--out={out} exists: delete it, or choose another")
    marks.refuse_inside(out)
    if jax.process_count() > 1:
        raise ValueError(f"--out={out} is written by one process, on all its devices: start one")
    work = out.absolute().with_name(f".{out.name}.unfinished")
    with lock.hold(work):
        # As plain JSON values, to compare them with the file.
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
            name: {**section, "images": "given"},
        }
        try:
            pipeline.run(config, made.parent, summary=False)
        except (ValueError, FileNotFoundError) as error:
            if not made.exists():  # nothing was begun: the request cannot work
                shutil.rmtree(work)
                raise
            # Replace the remedy in the message of a run by that of this call.
            words, changed, _ = str(error).partition(provenance.WAYS_ON)
            remedy = f"To start over, delete {work}" if changed else ""
            raise type(error)(f"{words}{remedy}") from error
        yield made
        shutil.rmtree(work)
