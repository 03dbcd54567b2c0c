"""kt-jax embed: the features of any images.

    kt-jax embed runs/mine/student photos --layer=conv5 --out=features
    kt-jax embed runs/mine/features photos --out=features

BACKBONE is a finished Backbone artifact (W/student or W/pretext of a run, or a copy of it). It may
also be a Features or Clusters artifact: then the features are computed in the same way as those
of the artifact, with the same network, layers, views and scales. PATH is the same as for
`kt-jax images scan`. DIR becomes a Features artifact: features-IIIII-of-NNNNN.npy [n, d] float16,
and index.parquet (index, key, label, class). After an interruption, the same command resumes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kt_jax.commands import architectures
from kt_jax.data import arguments


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status.

    Raises:
      ValueError, FileNotFoundError: as `kt_jax.results.writing.write_features`.
    """
    parser = argparse.ArgumentParser(
        prog="kt-jax embed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("backbone", metavar="BACKBONE")
    arguments.add_images(parser)
    add = parser.add_argument
    add("--out", required=True, type=Path, metavar="DIR")
    add("--layer", default="", help="name of the activation; without it, all names are printed")
    add("--grid", type=int, default=0, help="max-pool activation maps to grid x grid (4)")
    add("--size", type=int, default=0, help="side of the view in pixels (as in training)")
    add("--image_size", type=int, default=0, help="side in pixels that images are decoded to; the "
        "view is cut from the centre (--size)")  # fmt: skip
    add("--views", type=int, default=0, help="average the features over 1, 2 or 10 views (1)")
    architectures.add_import(parser)
    given = parser.parse_args(argv)
    architectures.import_files(given)
    source = {"source": given.source, **arguments.read_options(given)}
    # Imported here because they import JAX: --help and wrong arguments do not wait for it.
    from kt_jax.machine import partition
    from kt_jax.results.opened import open_artifact
    from kt_jax.results.writing import write_features
    from kt_jax.runs import artifacts

    partition.configure_xla()
    wanted = (artifacts.Backbone, artifacts.Features, artifacts.Clusters)
    write_features(
        open_artifact(given.backbone, *wanted), source, given.out, layer=given.layer,
        grid=given.grid, size=given.size, image_size=given.image_size, views=given.views,
    )  # fmt: skip
    print(given.out)
    return 0
