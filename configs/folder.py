"""The whole method on your own images: a folder, a glob, a zip, a tar, a list, labelled or not.

    python -m kt_jax.main --config=configs/folder.py:/path/to/images --workdir=runs/mine
    python -m kt_jax.main --config=configs/folder.py:/path/to/images,tiny --workdir=runs/mine

Sizes: tiny (minutes on a CPU, 48 px, from 200 images on), small (the default; an hour or two on
a CPU, 96 px, thousands of images), full (the paper's geometry and networks, for accelerators).
PATH is whatever `python -m kt_jax.data scan PATH` takes; see README, "Your own images". A set with
train/ and test/ (or val/) is split so; of any other, a fifth is held out by name. An option of the
source is given for both sets: --config.images.train.path_column=file, and the same of test. Without
labels the probe is left out, and the report says so.
"""

from pathlib import Path

from ml_collections import ConfigDict

SIZES = ("tiny", "small", "full")


def get_config(arg: str = "") -> ConfigDict:
    """Arg: PATH or PATH,SIZE."""
    path, comma, size = arg.rpartition(",")
    if not comma or size not in SIZES:
        if comma and "/" not in size and not Path(arg).exists():
            raise ValueError(
                f"configs/folder.py:{arg}: {size!r} is no size ({', '.join(SIZES)}), and there is "
                "no such path with a comma in it."
            )
        path, size = arg, "small"
    if not path:
        raise ValueError(
            "configs/folder.py needs a path: --config=configs/folder.py:/path/to/images, then "
            f"perhaps a comma and a size ({', '.join(SIZES)})."
        )

    def by_size(tiny, small, full):
        return {"tiny": tiny, "small": small, "full": full}[size]

    config = ConfigDict()
    config.seed = 0
    config.stages = (
        "pretext", "features", "clusters", "pseudo_labels", "student", "probe", "report",
    )  # fmt: skip
    source = {
        "source": "auto",
        "path": path,
        "size": by_size(48, 96, 256),
        "holdout": 0.2,
    }
    config.images = {
        "train": {**source, "subset": "train"},
        "test": {**source, "subset": "test"},
    }
    batch_norm = by_size(True, True, False)
    optimizer = {
        "name": "sgd",
        "learning_rate": by_size(0.05, 0.05, 0.01),
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "clip": 5.0,
        "warmup": by_size(50, 100, 1_000),
        "reference_batch": 0,
        "schedule": "cosine",
        "drop_every": 0,
        "bias_rate": 1.0,
    }
    # How images are read, which changes no result.
    config.loader = {"workers": 0, "cache": "auto", "max_unreadable": 0.01}
    config.pretext = {
        "images": "train",
        "test_images": "test",
        "test_repeats": 1,
        "batch_size": by_size(64, 64, 256),
        "steps": by_size(500, 3_000, 350_000),
        "log_every": by_size(25, 50, 100),
        "checkpoint_every": by_size(100, 250, 5_000),
        "compute": {"precision": "auto", "accumulate": 1, "remat": False},
        "puzzles": {
            "crop": by_size(48, 96, 255),
            "tile": by_size(12, 24, 64),
            "jitter": by_size(3, 7, 18),
            "channel_shift": by_size(1, 1, 2),
            "grey": 0.7,  # paper
            "projected": 0.0,
            "max_occluders": 2,  # paper
            "mirror": by_size(True, True, False),
        },
        "permutations": {"count": by_size(30, 100, 701), "file": ""},
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
            "batch_norm": True,
        },
        "optimizer": optimizer,
    }
    config.features = {
        "images": "train",
        "layer": by_size("conv3_2", "conv3_2", "conv4_3"),
        "grid": 4,  # paper: max-pooled to 4 x 4
        "size": by_size(48, 96, 255),
        "batch_size": by_size(64, 128, 256),
        "rows_per_shard": 65_536,
    }
    config.clusters = {
        "k": by_size(16, 100, 2_000),
        "l2": True,
        "centre": True,
        "spherical": False,
        "init": "k-means||",
        "precision": "auto",  # float32's labels, by the faster way here
        "restarts": 1,
        "max_iterations": 100,
        "tolerance": 1e-4,
        "warn_share": 0.25,
    }
    config.pseudo_labels = {"images": "train", "batch_size": by_size(64, 128, 256)}
    config.student = {
        "images": "train",
        "size": by_size(48, 96, 227),
        "batch_size": by_size(64, 128, 256),
        "steps": by_size(400, 3_000, 450_000),
        "log_every": by_size(25, 50, 100),
        "checkpoint_every": by_size(100, 250, 5_000),
        "compute": {"precision": "auto", "accumulate": 1, "remat": False},
        "uniform_over_clusters": False,
        "crop_area": (0.4, 1.0),
        "backbone": {
            "name": "alexnet",
            "channels": by_size(
                (32, 64, 96, 96, 64), (32, 64, 96, 96, 64), (96, 256, 384, 384, 256)
            ),
            "stem_kernel": by_size(5, 7, 11),
            "stem_stride": by_size(2, 2, 4),
            "batch_norm": batch_norm,
        },
        "head": {
            "hidden": by_size((256,), (512,), (4096, 4096)),
            "dropout": 0.5,
            "batch_norm": batch_norm,
        },
        "optimizer": optimizer,
    }
    config.probe = {
        "train_images": "train",
        "test_images": "test",
        "size": by_size(48, 96, 227),
        "batch_size": by_size(64, 128, 256),
        "epochs": by_size(16, 40, 28),
        "max_dims": 9600,
        "seeds": (0,),
        "teacher_layers": by_size(
            ("conv1_2", "conv2_2", "conv3_2"),
            ("conv1_2", "conv2_2", "conv3_2", "conv4_2"),
            ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"),
        ),
        "optimizer": {
            "learning_rate": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "clip": 1e9,
            "warmup": 0,
        },
    }
    config.report = {"images": "train", "clusters": 8, "images_per_cluster": 12, "puzzles": 6}
    return config
