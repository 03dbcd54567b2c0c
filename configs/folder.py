"""The whole method on your own images: a folder, a glob, a zip, a tar, a list, labelled or not.

    python -m kt_jax.main --config=configs/folder.py:/path/to/images --workdir=runs/mine
    python -m kt_jax.main --config=configs/folder.py:/path/to/images,tiny --workdir=runs/mine
    python -m kt_jax.main --config=configs/folder.py:/path/to/images,tiny,/path/to/labelled \
        --workdir=runs/mine

Sizes: tiny (minutes on a CPU, 48 px, from 200 images on), small (the default; an hour or two on
a CPU, 96 px, thousands of images), full (the paper's geometry and networks, for accelerators).
PATH is whatever `python -m kt_jax.data scan PATH` takes; see docs/your_images.md. A set with
train/ and test/ (or val/) is split so; of any other, a fifth is held out by name. An option of the
source is given for both sets: --config.images.train.path_column=file, and the same of test. Without
labels the evaluations are skipped, and the report says so. If few of your images have labels, give
those as LABELLED behind the size: everything is trained on PATH, and evaluated on LABELLED.
"""

import re
from pathlib import Path

from ml_collections import ConfigDict

SIZES = ("tiny", "small", "full")


def get_config(arg: str = "") -> ConfigDict:
    """Arg: PATH; or PATH,SIZE; or PATH,SIZE,LABELLED."""
    # A path may have commas.
    found = re.fullmatch(f"(.*?),({'|'.join(SIZES)})(?:,(.+))?", arg)
    path, size, labelled = found.groups() if found else (arg, "small", None)
    *_, last = arg.split(",")
    if not found and last != arg and "/" not in last and not Path(arg).exists():
        raise ValueError(
            f"configs/folder.py:{arg}: {last!r} is no size ({', '.join(SIZES)}), and there is no "
            "such path with a comma in it."
        )
    if not path:
        raise ValueError(
            "configs/folder.py needs a path: --config=configs/folder.py:/path/to/images, then "
            f"perhaps a comma and a size ({', '.join(SIZES)}), a comma and labelled images."
        )

    def by_size(tiny, small, full):
        return {"tiny": tiny, "small": small, "full": full}[size]

    config = ConfigDict()
    config.stages = (
        "pretext", "features", "clusters", "pseudo_labels", "student", "probe", "few_shot", "knn",
        "report",
    )  # fmt: skip
    source = {"source": "auto", "path": path, "size": by_size(48, 96, 256), "holdout": 0.2}
    config.images = {"train": {**source, "subset": "train"}, "test": {**source, "subset": "test"}}
    if labelled:
        for name, subset in (("labelled", "train"), ("labelled_test", "test")):
            config.images[name] = {**source, "path": labelled, "subset": subset}
    batch_norm = by_size(True, True, False)
    training = {
        "batch_size": by_size(64, 128, 256),
        "log_every": by_size(25, 50, 100),
        "checkpoint_every": by_size(100, 250, 5_000),
        "optimizer": {
            "learning_rate": by_size(0.05, 0.05, 0.01),
            "warmup": by_size(50, 100, 1_000),
        },
    }
    config.pretext = {
        "kind": "pretext",
        **training,
        "batch_size": by_size(64, 64, 256),
        "steps": by_size(500, 3_000, 350_000),
        "puzzles": {
            "crop": by_size(48, 96, 255),
            "tile": by_size(12, 24, 64),
            "jitter": by_size(3, 7, 18),
            "channel_shift": by_size(1, 1, 2),
            "mirror": by_size(True, True, False),
        },
        "permutations": {"count": by_size(30, 100, 701)},
        "backbone": {
            "name": "vgg",
            "channels": by_size((24, 48, 96), (24, 48, 96, 128), (64, 128, 256, 512, 512)),
            "convs": by_size((2, 2, 2), (2, 2, 2, 2), (2, 2, 3, 3, 3)),
            "batch_norm": True,
            "final_pool": by_size(False, False, True),
        },
        "head": {
            "fc6": by_size(64, 128, 1024),
            "fc7": by_size(256, 512, 4096),
            "dropout": by_size(0.0, 0.0, 0.5),
        },
    }
    config.features = {
        "kind": "features",
        "backbone": "pretext",
        "layer": by_size("conv3_2", "conv3_2", "conv4_3"),
        "size": by_size(48, 96, 255),
        "views": by_size(10, 10, 1),
        "calibrate": by_size(True, True, False),
    }
    # Components: as docs/features.md measured on test images, or fewer than a small folder has.
    config.clusters = {
        "kind": "clusters",
        "features": "features",
        "k": by_size(16, 100, 2_000),
        "dims": by_size(32, 256, 0),
        "whiten": by_size(True, True, False),
    }
    config.pseudo_labels = {"kind": "label", "clusters": "clusters"}
    # Compared on Imagenette at 48 px, the rate on its test images: see docs/students.md.
    regression = {
        "targets": "regression",
        "features": "features",
        "optimizer": {"learning_rate": 0.5, "warmup": 50},
    }
    config.student = {
        "kind": "classify",
        **training,
        **by_size(regression, regression, {"labels": "pseudo_labels"}),
        "batch_size": by_size(128, 128, 256),
        "steps": by_size(1_500, 5_000, 450_000),
        "size": by_size(48, 96, 227),
        "backbone": {
            "name": "alexnet",
            "channels": by_size(
                (32, 64, 96, 96, 64), (32, 64, 96, 96, 64), (96, 256, 384, 384, 256)
            ),
            "batch_norm": batch_norm,
        },
        "head": {"hidden": by_size((256,), (512,), None), "batch_norm": batch_norm},
    }
    config.probe = {
        "kind": "linear",
        "backbones": ("student", "random:student", "pretext"),
        "size": by_size(48, 96, 227),
        "max_dims": by_size(2_400, 2_400, 9_600),
    }
    if labelled:
        config.probe.update({"train_images": "labelled", "test_images": "labelled_test"})
    # The same networks and images for every way of asking.
    given = config.probe.to_dict()
    del given["kind"]
    if size != "full":
        config.probe.test_views = 10  # of every subject; docs/evaluations.md
    config.few_shot = {"kind": "few_shot", **given, "shares": ()}
    config.knn = {"kind": "knn", **given}
    config.report = {"kind": "report"}
    return config
