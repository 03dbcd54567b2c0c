"""The kinds of stages, by the name that a config says."""

from types import ModuleType

from kt_jax.stages import (
    classify,
    clusters,
    features,
    few_shot,
    given_features,
    given_labels,
    imported,
    knn,
    label,
    linear,
    linear_sgd,
    pretext,
    report,
    retrieval,
)

KINDS: dict[str, ModuleType] = {
    "pretext": pretext,
    "import": imported,
    "features": features,
    "given_features": given_features,
    "clusters": clusters,
    "label": label,
    "given_labels": given_labels,
    "classify": classify,
    "linear": linear,
    "linear_sgd": linear_sgd,
    "knn": knn,
    "retrieval": retrieval,
    "few_shot": few_shot,
    "report": report,
}
