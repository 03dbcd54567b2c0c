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

import kt_jax

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

    config = kt_jax.load_config(f"folder.py:{path},{size}")
    given = {"kind": "given_features", "features": features, "order": "all"}
    with config.unlocked():
        del config.pretext
        config.stages = (
            "features", "test_features", "clusters", "pseudo_labels", "student", "probe",
            "few_shot", "knn", "report",
        )  # fmt: skip
        config.images.all = {**config.images.train.to_dict(), "subset": "all"}
        config.features = given
        config.test_features = {**given, "images": "test"}
        # They may have few numbers, and somebody else has chosen how they are scaled.
        config.clusters.update(dims=0, whiten=False)
        for name in ("probe", "few_shot", "knn"):
            config[name].backbones = ("student", "random:student")
            config[name].train_features = ("features",)
            config[name].test_features = ("test_features",)
    return config
