"""The whole method on Imagenette (9,469 + 3,925 photographs of ten ImageNet classes), on a CPU.

    python -m kt_jax.main --config=configs/imagenette.py:/path/to/imagenette2_128.zip \
        --workdir=runs/imagenette

About an hour on two cores, by estimate; docs/results.md has figures. The argument is a zip
or a folder with train/CLASS/*.jpg and test/CLASS/*.jpg (or val/). Sizes and schedules are ours,
for a CPU; numbers marked "paper" are the paper's. With ",students" behind the path, students of
three architectures learn the same clusters for 600 steps each.
"""

from ml_collections import ConfigDict

# As wide as a CPU trains in minutes.
OTHERS = {
    "resnet18": {"name": "resnet18", "width": 0.5},
    "vgg11": {"name": "vgg11", "width": 0.25, "batch_norm": True},
}


def get_config(arg: str = "imagenette2_128.zip") -> ConfigDict:
    """Arg: where the images are, or that and ",students"."""
    arg, _, choice = arg.partition(",")
    config = ConfigDict()
    source = {"source": "auto", "path": arg, "size": 96}
    config.images = {"train": {**source, "subset": "train"}, "test": {**source, "subset": "test"}}
    training = {"log_every": 50, "checkpoint_every": 250, "optimizer": {"learning_rate": 0.05}}
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
        "views": 10,
        "calibrate": True,
    }
    config.clusters = {
        "kind": "clusters", "features": "features", "k": 100, "dims": 256, "whiten": True,
    }  # fmt: skip
    config.pseudo_labels = {"kind": "label", "clusters": "clusters"}
    config.student = {
        "kind": "classify",
        # Compared at 48 px, the rate on test images: see docs/students.md.
        "targets": "regression",
        "features": "features",
        **training,
        "optimizer": {"learning_rate": 0.5},
        "batch_size": 128,
        "steps": 3000,
        "size": 96,
        "backbone": {"name": "alexnet", "channels": (32, 64, 96, 96, 64), "batch_norm": True},
        "head": {"hidden": (512,), "batch_norm": True},
    }
    students = ["student"]
    if choice == "students":
        # Clusters: a regression loses to them with a ResNet (Koohpayegani et al. 2020).
        config.student = {
            **config.student.to_dict(),
            "targets": "hard",
            "labels": "pseudo_labels",
            "features": "",
            "optimizer": {"learning_rate": 0.05},
            "steps": 600,
        }
        for name, backbone in OTHERS.items():
            config[name] = {**config.student.to_dict(), "backbone": backbone}
        students += OTHERS
    config.probe = {
        "kind": "linear",
        "backbones": (*students, *(f"random:{name}" for name in students), "pretext"),
        "size": 96,
        "max_dims": 2400,
        "test_views": 10,  # of every subject
    }
    # The same networks and images for every way of asking.
    given = {name: config.probe[name] for name in ("backbones", "size", "max_dims")}
    config.few_shot = {"kind": "few_shot", **given, "shares": ()}
    config.knn = {"kind": "knn", **given}
    config.report = {"kind": "report"}
    config.stages = (
        "pretext", "features", "clusters", "pseudo_labels", *students, "probe", "few_shot", "knn",
        "report",
    )  # fmt: skip
    return config
