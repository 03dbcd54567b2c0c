"""The whole method on Imagenette (9,469 + 3,925 photographs of ten ImageNet classes), on a CPU.

    python -m kt_jax.main --config=configs/imagenette.py:/path/to/imagenette2_128.zip \
        --workdir=runs/imagenette

About an hour on two cores; README, "Results", has the figures to expect. The argument is a zip
or a folder with train/CLASS/*.jpg and test/CLASS/*.jpg (or val/). Sizes and schedules are ours,
for a CPU; numbers marked "paper" are the paper's.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "imagenette2_128.zip") -> ConfigDict:
    """Arg: where the images are."""
    config = ConfigDict()
    config.stages = (
        "pretext", "features", "clusters", "pseudo_labels", "student", "probe", "report",
    )  # fmt: skip
    source = {"source": "auto", "path": arg, "size": 96}
    config.images = {
        "train": {**source, "subset": "train"},
        "test": {**source, "subset": "test"},
    }
    training = {
        "log_every": 50,
        "checkpoint_every": 250,
        "optimizer": {"learning_rate": 0.05},
    }
    config.pretext = {
        "kind": "pretext",
        **training,
        "batch_size": 64,
        "steps": 2000,
        # The paper's ratios of tile, jitter and channel shift to the cell, at 32 px cells.
        "puzzles": {
            "crop": 96,
            "tile": 24,
            "jitter": 7,
            "channel_shift": 1,
            "grey": 0.5,  # the authors' code; the paper has 0.7
            "mirror": True,
        },
        "permutations": {"count": 100},
        "backbone": {
            "name": "vgg",
            "channels": (24, 48, 96, 128),
            "convs": (2, 2, 2, 2),
            "batch_norm": True,
            "final_pool": False,
        },
        "head": {"fc6": 128, "fc7": 512, "dropout": 0.0},
    }
    config.features = {
        "kind": "features",
        "backbone": "pretext",
        "layer": "conv3_2",
        "size": 96,
        "batch_size": 128,
    }
    config.clusters = {"kind": "clusters", "features": "features", "k": 100}
    config.pseudo_labels = {"kind": "label", "clusters": "clusters", "batch_size": 128}
    config.student = {
        "kind": "classify",
        "labels": "pseudo_labels",
        **training,
        "batch_size": 128,
        "steps": 2200,
        "size": 96,
        "backbone": {
            "name": "alexnet",
            "channels": (32, 64, 96, 96, 64),
            "stem_kernel": 7,
            "stem_stride": 2,
            "batch_norm": True,
        },
        "head": {"hidden": (512,), "batch_norm": True},
    }
    config.probe = {
        "kind": "probe",
        "backbones": ("student", "random:student", "pretext"),
        "size": 96,
        "batch_size": 128,
        "epochs": 40,
    }
    config.report = {"kind": "report"}
    return config
