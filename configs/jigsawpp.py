"""The paper's experiment: VGG-16 learns Jigsaw++ on ImageNet, AlexNet learns its clusters.

    tfds build imagenet2012 --file_format=array_record  # once, from image-net.org's two tars
    python -m kt_jax.main --config=configs/jigsawpp.py --workdir=runs/jigsawpp
    python -m kt_jax.main --config=configs/jigsawpp.py:tiny --workdir=runs/tiny

Expected on ImageNet, linear probes conv1..conv5 (paper, Table 4, CC+vgg-Jigsaw++): 19.2, 32.0,
37.3, 37.1, 34.6; a random AlexNet: 11.6, 17.1, 16.9, 16.3, 14.1. Not run by us yet. An estimate
from the steps that were timed on an H200 (docs/benchmarks.md): 4.6 hours for the puzzles and 50
minutes for the student on one such GPU, if images are read as fast (docs/scale.md has eight). The
probe wants 250 GB of scratch space for a network at a time.

Comments say which numbers are the paper's, which are its authors' released code, and which are
ours because neither is known.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Arg "tiny" shrinks widths, steps and images to the embedded photographs."""
    if arg not in ("", "tiny"):
        raise ValueError(f"configs/jigsawpp.py:{arg}: the only argument is tiny.")
    tiny = arg == "tiny"
    config = ConfigDict()
    config.stages = (
        "pretext", "features", "clusters", "pseudo_labels", "student", "probe", "report"
    )  # fmt: skip
    size = 256  # authors' code: short side 256
    if tiny:
        photographs = {
            "source": "photographs",
            "views_per_photograph": 8,
            "seed": 0,
            "share": (0.4, 1.0),
            "size": size,
        }
        config.images = {
            "train": {**photographs, "subset": "train"},
            "test": {**photographs, "subset": "test"},
        }
    else:
        imagenet = {"source": "tfds", "name": "imagenet2012", "data_dir": "", "size": size}
        config.images = {
            "train": {**imagenet, "split": "train"},
            "test": {**imagenet, "split": "validation"},
        }
    optimizer = {
        "learning_rate": 0.01,  # authors' code; Caffe's AlexNet
        "warmup": 1_000,
        "schedule": "step",
        "drop_every": 100_000,  # authors' code; Caffe's AlexNet
        "clip": 0.0,  # authors' code; one of 5 halves the first thousands of steps at batch 256
    }
    every = {"log_every": 2 if tiny else 100, "checkpoint_every": 2 if tiny else 5_000}
    config.pretext = {
        "kind": "pretext",
        **every,
        "batch_size": 32 if tiny else 256,  # authors' code
        "steps": 2 if tiny else 350_000,  # the 2016 paper
        "puzzles": {
            "crop": 255,  # authors' code
            "tile": 64,  # authors' code
            "jitter": 18,  # authors' code
            "channel_shift": 2,  # the 2016 paper
            "grey": 0.7,  # paper; the authors' code has grey 0.5, projected 0.25
            "max_occluders": 2,  # paper
            "mirror": False,  # authors' code
        },
        "permutations": {"count": 20 if tiny else 701},  # paper: 701
        "backbone": {
            "name": "vgg",  # paper: VGG-16; its head, initialisation and norms are not known
            "width": 0.0625 if tiny else 1.0,
            "batch_norm": True,
        },
        "head": {
            "fc6": 32 if tiny else 1024,  # the 2016 paper, for AlexNet
            "fc7": 64 if tiny else 4096,  # the 2016 paper, for AlexNet
            "dropout": 0.5,  # authors' code
        },
        "optimizer": optimizer,
    }
    config.features = {
        "kind": "features",
        "backbone": "pretext",
        "layer": "conv4_3",  # paper: conv4; which of its layers is not known
        "grid": 4,  # paper
        "size": 255,
        "batch_size": 16 if tiny else 256,
    }
    config.clusters = {
        "kind": "clusters",
        "features": "features",
        "k": 4 if tiny else 2_000,  # paper
        "l2": False,  # paper: not mentioned
        "max_iterations": 50,
    }
    config.pseudo_labels = {
        "kind": "label",
        "clusters": "clusters",
        "batch_size": 16 if tiny else 256,
    }
    config.student = {
        "kind": "classify",
        "labels": "pseudo_labels",
        **every,
        "batch_size": 16 if tiny else 256,  # Caffe's AlexNet
        "steps": 2 if tiny else 450_000,  # Caffe's AlexNet
        "size": 227,  # AlexNet
        # Caffe takes 227 px squares of 256 px images: an area of 0.79; ours vary about it.
        "crop_area": (0.6, 1.0),
        "backbone": {
            "name": "alexnet",
            "channels": (8, 16, 24, 24, 16) if tiny else (96, 256, 384, 384, 256),
        },
        "head": {"hidden": (32, 32) if tiny else None},  # Caffe's AlexNet: (4096, 4096)
        "optimizer": {**optimizer, "bias_rate": 2.0},  # Caffe's AlexNet
    }
    config.probe = {
        "kind": "linear_sgd",
        "backbones": ("student", "random:student", "pretext"),
        "size": 227,
        "batch_size": 16 if tiny else 256,
        "epochs": 1 if tiny else 28,  # 140,000 steps of 256 (FAIR's benchmark)
        "max_dims": 9600,  # Zhang et al. 2016
    }
    config.report = {
        "kind": "report",
        "clusters": 2 if tiny else 12,
        "images_per_cluster": 6 if tiny else 12,
        "puzzles": 2 if tiny else 6,
    }
    return config
