"""kt-jax export: writes a trained network for other programs, with preprocessing and a model card.

    kt-jax export runs/quickstart/student --to=torch --out=student
    kt-jax export runs/quickstart/pretext --to=onnx --size=224 --out=teacher

The export is loaded again and compared with the network in JAX on fixed images. Nothing is written
into the run.
"""

import argparse
from collections.abc import Sequence

from kt_jax.commands import architectures
from kt_jax.results import exports


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status. Raises as `exports.export`."""
    parser = argparse.ArgumentParser(
        prog="kt-jax export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "artifact",
        metavar="ARTIFACT",
        help="a Backbone, such as RUN/student; or Features or Clusters, which contain one",
    )
    parser.add_argument("--to", required=True, choices=list(exports.FORMATS))
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="the folder to write; it must be new, empty, or an earlier export (replaced)",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=0,
        help="side of the input images in pixels (by default that of training)",
    )
    architectures.add_import(parser)
    chosen = parser.parse_args(argv)
    architectures.import_files(chosen)
    done = exports.export(chosen.artifact, to=chosen.to, out=chosen.out, size=chosen.size)
    if done.replaced:
        print(f"{done.directory}: replaced the earlier export")
    for name, difference in done.differences.items():
        print(f"  {name}: differs by {difference:.1e} of its largest value")
    print(f"{done.directory}: {chosen.to}, equals the network in JAX to {done.largest:.1e}")
    return 0
