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
    config.stages = (
        "pretext", "features", "clusters", "pseudo_labels", "student", "probe", "report"
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
    training = {
        "batch_size": 64,
        "log_every": 25,
        "checkpoint_every": 100,
        "optimizer": {"learning_rate": 0.05, "warmup": 50},
    }
    config.pretext = {
        "kind": "pretext",
        **training,
        "steps": 3 if tiny else 600,
        "test_repeats": 1 if tiny else 4,
        # The paper's ratios of tile, jitter and channel shift to the cell, at 16 px cells.
        "puzzles": {
            "crop": 48,
            "tile": 12,
            "jitter": 3,
            "channel_shift": 1,
            "grey": 0.5,  # the authors' code; the paper has 0.7
            "mirror": True,
        },
        "permutations": {"count": 30},
        "backbone": {
            "name": "vgg",
            "channels": (24, 48, 96),
            "convs": (2, 2, 2),
            "batch_norm": True,
            "final_pool": False,
        },
        "head": {"fc6": 64, "fc7": 256},
    }
    config.features = {"kind": "features", "backbone": "pretext", "layer": "conv3_2", "size": 48}
    config.clusters = {
        "kind": "clusters",
        "features": "features",
        "k": 4 if tiny else 32,
        "max_iterations": 50,
    }
    config.pseudo_labels = {"kind": "label", "clusters": "clusters"}
    config.student = {
        "kind": "classify",
        "labels": "pseudo_labels",
        **training,
        "steps": 3 if tiny else 400,
        "size": 48,
        "crop_area": (0.2, 1.0),
        "backbone": {"name": "alexnet", "channels": (32, 64, 96, 96, 64), "batch_norm": True},
        "head": {"hidden": (256,), "batch_norm": True},
    }
    config.probe = {
        "kind": "linear",
        "backbones": ("student", "random:student", "pretext"),
        "train_images": "probe",
        "size": 48,
        "max_dims": 800,
    }
    config.report = {"kind": "report", "images_per_cluster": 10}
    return config
