"""kt-jax atlas: every cluster on one HTML page, which needs neither a server nor a network.

    kt-jax atlas runs/quickstart/clusters --out=atlas
    kt-jax atlas runs/a/clusters --compare=runs/b/clusters --out=atlas/a-b.html
    kt-jax atlas runs/a/clusters /data/next-week --out=atlas

The page shows all clusters with their sizes, how tight and (where classes are known) how pure they
are, their nearest, median, farthest and borderline images and all others, a map, and a search.
atlas.parquet beside it has a row an image; Apple's Embedding Atlas opens it.

CLUSTERS is the directory of Clusters or Labels. Without PATH, the images are those that were
clustered (or labelled), where the config of the run says; they must not have changed. Distances are
those that the run's Labels of these images have, or else those of the features that were clustered,
measured again.

PATH is as of `kt-jax images scan` (a folder, an archive, a table; several folders), or the name of
a set of images in the run's config, such as test. Clusters then give each image there its nearest
centroid, through the backbone that they carry, whether it was clustered before or not. Labels find
their images there by name.

Nothing is written into the run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kt_jax.commands import architectures
from kt_jax.data import arguments


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status.

    Raises:
      ValueError, FileNotFoundError: as `atlas.write_atlas`.
    """
    parser = argparse.ArgumentParser(
        prog="kt-jax atlas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("clusters", type=Path, metavar="CLUSTERS")
    arguments.add_images(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR|FILE.html")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OTHER",
        help="Clusters or Labels of the same images, to compare with",
    )
    parser.add_argument("--map", default="pca", metavar="pca|umap",
        help="principal components (pca), or UMAP, which needs the extra [umap]")  # fmt: skip
    parser.add_argument("--max_megabytes", type=float, default=100.0, metavar="MB",
        help="of the page, which decides how large thumbnails are, and how many images of a large "
        "cluster have one; the others are listed by name (100)")  # fmt: skip
    architectures.add_import(parser)
    given = parser.parse_args(argv)
    architectures.import_files(given)
    # Only here: --help need not wait for it.
    from kt_jax.results import atlas

    written = atlas.write_atlas(
        given.clusters,
        given.out,
        images=_find_images(given),
        compare=given.compare,
        map=given.map,
        max_megabytes=given.max_megabytes,
    )
    print(written.page)
    print(written.table)
    return 0


def _find_images(given: argparse.Namespace) -> str | dict[str, Any] | None:
    """What `write_atlas` takes: nothing, a place or the name of a set, or the options of a source.

    Raises:
      ValueError: as `arguments.read_options`.
    """
    if given.source == "auto" and not given.option and len(given.paths) < 2:
        return given.paths[0] if given.paths else None
    return {"source": given.source, **arguments.read_options(given)}
