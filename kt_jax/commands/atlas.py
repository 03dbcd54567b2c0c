"""kt-jax atlas: all clusters on one HTML page, which works offline.

    kt-jax atlas runs/quickstart/clusters --out=atlas
    kt-jax atlas runs/a/clusters --compare=runs/b/clusters --out=atlas/a-b.html
    kt-jax atlas runs/a/clusters /data/next-week --out=atlas

The page shows the size, tightness and (if classes are known) purity of each cluster, and its
images: nearest, median, farthest, borderline, then all others. It also has a map and a search. The
file atlas.parquet in the same directory has one row for each image; Apple's Embedding Atlas opens
it.

CLUSTERS is the directory of a Clusters or Labels artifact. Without PATH, the page shows the images
that were clustered or labelled. They are read from where the run's config says, and must not have
changed. Distances come from the run's Labels of these images, or from the clusters' own
labels.parquet. If there is neither, they are computed again from the features that were clustered.

PATH is the same as for `kt-jax images scan` (a folder, an archive, a table, several folders), or
the name of a set of images in the run's config, such as test. With Clusters, each image of PATH
gets its nearest centroid, by the backbone that the artifact contains. With Labels, the labelled
images are found in PATH by name.

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
        help="largest size of the page (100). It limits the size of thumbnails, and their number "
        "in large clusters; images without a thumbnail are listed by name")  # fmt: skip
    architectures.add_import(parser)
    given = parser.parse_args(argv)
    architectures.import_files(given)
    # Imported here: --help does not wait for it.
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
    """The argument `images` of `write_atlas`: None, a path or the name of a set, or options.

    Raises:
      ValueError: as `arguments.read_options`.
    """
    if given.source == "auto" and not given.option and len(given.paths) < 2:
        return given.paths[0] if given.paths else None
    return {"source": given.source, **arguments.read_options(given)}
