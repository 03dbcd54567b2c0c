"""A student of features that another network gave: DINOv3's, CLIP's, or whatever is in a file.

    python -m kt_jax.main --config=configs/from_features.py:features.parquet,/path/to/images \
        --workdir=runs/from_features

The argument is FEATURES,IMAGES or FEATURES,IMAGES,SIZE. FEATURES holds a row for every image: .npy,
.safetensors, .pth or .parquet. A column `key` of a .parquet file says which image a row is of, or
a file does: --config.features.keys=FILE --config.test_features.keys=FILE, a key a line. A key is
the image's path below IMAGES. Without keys the rows are in the order of the images (by path).
IMAGES and SIZE (tiny, small, full) are those of configs/folder.py. A fifth of the images is held
out unless they are split: the clusters and the student do not see it, the probe tests on it. Of
unlabelled images there is no probe.
"""

from ml_collections import ConfigDict

SIZES = ("tiny", "small", "full")


def get_config(arg: str = "") -> ConfigDict:
    """Arg: FEATURES,IMAGES or FEATURES,IMAGES,SIZE."""
    features, _, path = arg.partition(",")
    path, comma, size = path.rpartition(",")
    if not comma or size not in SIZES:
        path, size = f"{path}{comma}{size}", "small"
    if not features or not path:
        raise ValueError(
            "configs/from_features.py needs features and images: "
            "--config=configs/from_features.py:features.npy,/path/to/images, then perhaps a comma "
            f"and a size ({', '.join(SIZES)})."
        )

    def by_size(tiny, small, full):
        return {"tiny": tiny, "small": small, "full": full}[size]

    config = ConfigDict()
    config.stages = (
        "features", "test_features", "clusters", "pseudo_labels", "student", "probe", "report"
    )  # fmt: skip
    source = {"source": "auto", "path": path, "size": by_size(48, 96, 256), "holdout": 0.2}
    config.images = {name: {**source, "subset": name} for name in ("train", "test", "all")}
    given = {"kind": "given_features", "features": features, "order": "all"}
    config.features = given
    config.test_features = {**given, "images": "test"}
    config.clusters = {"kind": "clusters", "features": "features", "k": by_size(16, 100, 2_000)}
    config.pseudo_labels = {"kind": "label", "clusters": "clusters"}
    batch_norm = by_size(True, True, False)
    config.student = {
        "kind": "classify",
        "labels": "pseudo_labels",
        "batch_size": by_size(64, 128, 256),
        "log_every": by_size(25, 50, 100),
        "checkpoint_every": by_size(100, 250, 5_000),
        "optimizer": {
            "learning_rate": by_size(0.05, 0.05, 0.01),
            "warmup": by_size(50, 100, 1_000),
        },
        "steps": by_size(400, 3_000, 450_000),
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
        "kind": "probe",
        "backbones": ("student", "random:student"),
        "train_features": ("features",),
        "test_features": ("test_features",),
        "size": by_size(48, 96, 227),
        "batch_size": by_size(64, 128, 256),
        "epochs": by_size(16, 40, 28),
    }
    config.report = {"kind": "report"}
    return config
