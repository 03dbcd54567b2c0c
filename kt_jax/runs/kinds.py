"""The kinds of stages, by the name that a config says."""

from types import ModuleType

from kt_jax.stages import (
    classify,
    clusters,
    control_labels,
    features,
    given_features,
    given_labels,
    imported,
    label,
    pretext,
    probe,
    report,
)

KINDS: dict[str, ModuleType] = {
    "pretext": pretext,
    "import": imported,
    "features": features,
    "given_features": given_features,
    "clusters": clusters,
    "label": label,
    "given_labels": given_labels,
    "control_labels": control_labels,
    "classify": classify,
    "probe": probe,
    "report": report,
}
