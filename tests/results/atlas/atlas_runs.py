"""A small finished run, made in seconds: a network without training, its features and clusters."""

import json
import re

import numpy as np
from PIL import Image

import kt_jax
from kt_jax.evaluation import backbones
from kt_jax.results.atlas import members
from kt_jax.runs import artifacts

SIZE = 24
# What people call files and folders, and what would be HTML.
CLASSES = ("cat", "<b onclick=alert(1)>dog", "owl")
HOSTILE = "<img src=x onerror=alert(1)>&amp;.png"
TINTS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])


def write_pictures(folder, *, each=20, seed=0):
    """PNG files in a folder for each class, a class of one tint."""
    random = np.random.default_rng(seed)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            noise = random.integers(-55, 56, (SIZE, SIZE, 3))
            pixels = np.uint8(np.clip(TINTS[number] + noise * random.uniform(0.2, 1), 0, 255))
            file = HOSTILE if number == index == 0 else f"{index:03d}.png"
            Image.fromarray(pixels).save(folder / name / file)
    return folder


def make_run(root, *, k=5, more=()):
    """A run of features, clusters and labels of the pictures in root/pictures; returns its place.

    `more` are further sections of its config.
    """
    if not (root / "pictures").exists():
        write_pictures(root / "pictures")
        write_pictures(root / "others", each=4, seed=1)
        write_pictures(root / "twins", seed=2)  # as many as in pictures, with the same names
    network = root / "network"
    if not network.exists():
        about = backbones.describe({"name": "alexnet", "channels": (4,) * 5}, SIZE)
        made = backbones.random_backbone(about, seed=0)
        params, stats = {"backbone": made.params}, {"backbone": made.batch_stats}
        backbones.save_network(network, about, params, stats)
        artifacts.finish(network, about, {}, section={}, facts={}, seconds=1.0)
    images = {"source": "folder", "size": SIZE}
    config = {
        "seed": 3,
        "images": {
            "train": {**images, "path": str(root / "pictures")},
            "test": {**images, "path": str(root / "others")},
            "twins": {**images, "path": str(root / "twins")},
        },
        "features": {
            "kind": "features", "backbone": str(network), "layer": "conv2", "grid": 2, "size": SIZE,
        },
        "clusters": {"kind": "clusters", "features": "features", "k": k},
        "pseudo_labels": {"kind": "label", "clusters": "clusters"},
        **dict(more),
    }  # fmt: skip
    kt_jax.run(config, root / "run")
    return root / "run"


def make_members(keys, cluster):
    """Members of these clusters, each on its centroid."""
    cluster, zeros = np.array(cluster, np.int32), np.zeros(len(keys), np.float32)
    return members.Members(tuple(keys), cluster, zeros, cluster, zeros, origin="x/labels.parquet")


def read_page(path):
    """What the script of a page reads, its arrays as NumPy's, and its sheets by name."""
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    data = json.loads(found)
    sheet = r'<script type="text/plain" id="sheet-([\d-]+)">([^<]*)</script>'
    return data, dict(re.findall(sheet, text))
