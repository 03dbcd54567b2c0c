"""kt-jax assign: label any images with the nearest centroid.

    kt-jax assign runs/mine/clusters photos --out=labels.parquet
    kt-jax assign runs/mine/clusters photos --out=sorted --form=links

CLUSTERS is a finished Clusters artifact, such as W/clusters of a run, or a copy of it. It contains
the network that it needs. PATH is the same as for `kt-jax images scan`. The output file (.parquet
or .csv) has one row for each image: key, cluster, distance, second_cluster, and margin (distance to
the second centroid minus distance to the first). If the classes of the clustered images are known,
two more columns describe the cluster: class (the most frequent class) and share (the share of the
cluster's images in that class). After an interruption, the same command resumes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kt_jax.commands import architectures
from kt_jax.data import arguments

_FORMS = {
    "artifact": "a Labels artifact, as a stage of a run writes it (the default)",
    "links": "a folder of links to the images for each cluster",
    "huggingface": "links to the images and metadata.csv, for load_dataset('imagefolder')",
    "fiftyone": "data.json and labels.json of a FiftyOneImageClassificationDataset",
}


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status.

    Raises:
      ValueError, FileNotFoundError: as `kt_jax.results.writing.write_assignment`.
    """
    forms = "; ".join(f"{name}: {words}" for name, words in _FORMS.items())
    parser = argparse.ArgumentParser(
        prog="kt-jax assign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clusters", metavar="CLUSTERS")
    arguments.add_images(parser)
    parser.add_argument("--out", required=True, type=Path, help="FILE.parquet, FILE.csv or DIR")
    parser.add_argument("--form", default="", help=f"what DIR contains: {forms}")
    architectures.add_import(parser)
    given = parser.parse_args(argv)
    architectures.import_files(given)
    source = {"source": given.source, **arguments.read_options(given)}
    # Imported here because they import JAX: --help and wrong arguments do not wait for it.
    from kt_jax.machine import partition
    from kt_jax.results.opened import open_artifact
    from kt_jax.results.writing import write_assignment
    from kt_jax.runs import artifacts

    partition.configure_xla()
    clusters = open_artifact(given.clusters, artifacts.Clusters)
    write_assignment(clusters, source, given.out, form=given.form)
    print(given.out)
    return 0
