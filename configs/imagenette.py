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
    config.seed = 0
    config.stages = (
        "pretext", "features", "clusters", "pseudo_labels", "student", "probe", "report",
    )  # fmt: skip
    source = {"source": "auto", "path": arg, "size": 96}
    config.images = {
        "train": {**source, "subset": "train"},
        "test": {**source, "subset": "test"},
    }
    # How images are read, which changes no result.
    config.loader = {"workers": 0, "cache": "auto", "max_unreadable": 0.01}
    config.pretext = {
        "images": "train",
        "test_images": "test",
        "test_repeats": 1,
        "batch_size": 64,
        "steps": 2000,
        "log_every": 50,
        "checkpoint_every": 250,
        "compute": {"precision": "auto", "accumulate": 1, "remat": False},
        # The paper's ratios of tile, jitter and channel shift to the cell, at 32 px cells.
        "puzzles": {
            "crop": 96,
            "tile": 24,
            "jitter": 7,
            "channel_shift": 1,
            "grey": 0.5,  # the authors' code; the paper has 0.7
            "projected": 0.0,
            "max_occluders": 2,  # paper
            "mirror": True,
        },
        "permutations": {"count": 100, "file": ""},
        "backbone": {
            "name": "vgg",
            "channels": (24, 48, 96, 128),
            "convs": (2, 2, 2, 2),
            "batch_norm": True,
            "final_pool": False,
        },
        "head": {"fc6": 128, "fc7": 512, "dropout": 0.0, "batch_norm": True},
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.05,
            "momentum": 0.9,  # paper (the authors' solver)
            "weight_decay": 5e-4,  # paper (the authors' solver)
            "clip": 5.0,
            "warmup": 100,
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
        "size": 96,
        "batch_size": 128,
        "rows_per_shard": 65536,
    }
    config.clusters = {
        "k": 100,
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
    config.pseudo_labels = {"images": "train", "batch_size": 128}
    config.student = {
        "images": "train",
        "size": 96,
        "batch_size": 128,
        "steps": 2200,
        "log_every": 50,
        "checkpoint_every": 250,
        "compute": {"precision": "auto", "accumulate": 1, "remat": False},
        "uniform_over_clusters": False,
        "crop_area": (0.4, 1.0),
        "backbone": {
            "name": "alexnet",
            "channels": (32, 64, 96, 96, 64),
            "stem_kernel": 7,
            "stem_stride": 2,
            "batch_norm": True,
        },
        "head": {"hidden": (512,), "dropout": 0.5, "batch_norm": True},
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.05,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "clip": 5.0,
            "warmup": 100,
            "reference_batch": 0,
            "schedule": "cosine",
            "drop_every": 0,
            "bias_rate": 1.0,
        },
    }
    config.probe = {
        "train_images": "train",
        "test_images": "test",
        "size": 96,
        "batch_size": 128,
        "epochs": 40,
        "max_dims": 9600,  # the probe protocol's 9,000 to 9,600 dimensions
        "seeds": (0,),
        "teacher_layers": ("conv1_2", "conv2_2", "conv3_2", "conv4_2"),
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
