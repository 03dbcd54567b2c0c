"""A config of six rows that share a teacher and its features: three k, two students each."""

from ml_collections import ConfigDict

import kt_jax

KS = (8, 16, 32)
STUDENTS = {
    "alexnet": {"name": "alexnet", "channels": (8,) * 5, "stem_kernel": 5, "stem_stride": 2},
    "vgg": {"name": "vgg", "channels": (8, 8), "convs": (1, 1)},
}


def get_config() -> ConfigDict:
    """Each row is a stage; the rows of one k share its clusters and labels."""
    small = kt_jax.load_config(
        "quickstart.py:tiny", pretext={"batch_size": 16, "backbone": {"channels": (8, 8, 8)}}
    ).to_dict()
    clusters, labels, student = (small.pop(x) for x in ("clusters", "pseudo_labels", "student"))
    student |= {"batch_size": 16, "head": {"hidden": (16,)}}
    stages = ["pretext", "features"]
    for k in KS:
        small[f"clusters_{k}"] = {**clusters, "k": k}
        small[f"labels_{k}"] = {**labels, "clusters": f"clusters_{k}"}
        rows = {f"{name}_{k}": backbone for name, backbone in STUDENTS.items()}
        for row, backbone in rows.items():
            small[row] = {**student, "labels": f"labels_{k}", "backbone": backbone}
        stages += [f"clusters_{k}", f"labels_{k}", *rows]
    rows = [name for name in stages if name.startswith(tuple(STUDENTS))]
    small["probe"]["backbones"] = (*rows, "random:alexnet_8", "random:vgg_8")
    small["stages"] = (*stages, "probe", "report")
    return ConfigDict(small)
