"""The whole method on the photographs that scikit-image ships: minutes on a CPU, no data needed.

    python -m kt_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
    python -m kt_jax.main --config=configs/quickstart.py:tiny --workdir=runs/tiny

Every size is ours, chosen for two CPU cores; configs/jigsawpp.py is the paper's experiment.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Arg "tiny" shrinks everything: all stages run, nothing is learnt."""
    if arg not in ("", "tiny"):
        raise ValueError(f"configs/quickstart.py:{arg}: the only argument is tiny.")
    tiny = arg == "tiny"
    config = ConfigDict()
    config.seed = 0
    config.stages = (
        "pretext", "features", "clusters", "pseudo_labels", "student", "probe", "report",
    )  # fmt: skip
    views = {"source": "photographs", "seed": 0, "share": (0.4, 1.0), "size": 48}
    config.images = {
        # Six photographs are soon known by heart: many views of them are made to learn from.
        "train": {**views, "subset": "train", "views_per_photograph": 8 if tiny else 800},
        "probe": {
            **views,
            "subset": "train",
            "views_per_photograph": 8 if tiny else 160,
            "seed": 1,
        },
        "test": {**views, "subset": "test", "views_per_photograph": 4 if tiny else 64},
    }
    # How images are read, which changes no result.
    config.loader = {"workers": 0, "cache": "auto", "max_unreadable": 0.01}
    config.pretext = {
        "images": "train",
        "test_images": "test",
        "test_repeats": 1 if tiny else 4,
        "batch_size": 64,
        "steps": 3 if tiny else 600,
        "log_every": 25,
        "checkpoint_every": 100,
        "compute": {"precision": "auto", "accumulate": 1, "remat": False},
        # The paper's ratios of tile, jitter and channel shift to the cell, at 16 px cells.
        "puzzles": {
            "crop": 48,
            "tile": 12,
            "jitter": 3,
            "channel_shift": 1,
            "grey": 0.5,  # the authors' code; the paper has 0.7
            "projected": 0.0,
            "max_occluders": 2,  # paper
            "mirror": True,
        },
        "permutations": {"count": 30, "file": ""},
        "backbone": {
            "name": "vgg",
            "channels": (24, 48, 96),
            "convs": (2, 2, 2),
            "batch_norm": True,
            "final_pool": False,
        },
        "head": {"fc6": 64, "fc7": 256, "dropout": 0.5, "batch_norm": True},
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.05,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "clip": 5.0,
            "warmup": 50,
            "reference_batch": 0,
            "schedule": "cosine",
            "drop_every": 0,
            "bias_rate": 1.0,
        },
    }
    config.features = {
        "images": "train",
        "layer": "conv3_2",
        "grid": 4,  # paper: max-pooled to 4 x 4
        "size": 48,
        "batch_size": 64,
        "rows_per_shard": 65536,
    }
    config.clusters = {
        "k": 4 if tiny else 32,
        "l2": True,
        "centre": True,
        "spherical": False,
        "init": "k-means||",
        "precision": "auto",  # float32's labels, by the faster way here
        "restarts": 1,
        "max_iterations": 50,
        "tolerance": 1e-4,
        "warn_share": 0.25,
    }
    config.pseudo_labels = {"images": "train", "batch_size": 64}
    config.student = {
        "images": "train",
        "size": 48,
        "batch_size": 64,
        "steps": 3 if tiny else 400,
        "log_every": 25,
        "checkpoint_every": 100,
        "compute": {"precision": "auto", "accumulate": 1, "remat": False},
        "uniform_over_clusters": False,
        "crop_area": (0.2, 1.0),
        "backbone": {
            "name": "alexnet",
            "channels": (32, 64, 96, 96, 64),
            "stem_kernel": 5,
            "stem_stride": 2,
            "batch_norm": True,
        },
        "head": {"hidden": (256,), "dropout": 0.5, "batch_norm": True},
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.05,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "clip": 5.0,
            "warmup": 50,
            "reference_batch": 0,
            "schedule": "cosine",
            "drop_every": 0,
            "bias_rate": 1.0,
        },
    }
    config.probe = {
        "train_images": "probe",
        "test_images": "test",
        "size": 48,
        "batch_size": 64,
        "epochs": 1 if tiny else 16,
        # Fewer than the 960 views: with the usual 9,600, a random network learns them by heart.
        "max_dims": 400,
        "seeds": (0,),
        "teacher_layers": ("conv1_2", "conv2_2", "conv3_2"),
        "optimizer": {
            "learning_rate": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "clip": 1e9,
            "warmup": 0,
        },
    }
    config.report = {"images": "train", "clusters": 8, "images_per_cluster": 10, "puzzles": 6}
    return config
