"""The kinds of stages, by their name in a config (`kind`)."""

from types import ModuleType

from kt_jax.stages import (
    classify,
    clusters,
    control_labels,
    descriptors,
    features,
    few_shot,
    fine_tune,
    given_features,
    given_labels,
    imported,
    knn,
    label,
    linear,
    linear_sgd,
    nonlinear,
    pretext,
    report,
    retrieval,
    table,
    voc07_classification,
)

KINDS: dict[str, ModuleType] = {
    "pretext": pretext,
    "import": imported,
    "features": features,
    "given_features": given_features,
    "descriptors": descriptors,
    "clusters": clusters,
    "label": label,
    "given_labels": given_labels,
    "control_labels": control_labels,
    "classify": classify,
    "linear": linear,
    "linear_sgd": linear_sgd,
    "knn": knn,
    "retrieval": retrieval,
    "few_shot": few_shot,
    "fine_tune": fine_tune,
    "nonlinear": nonlinear,
    "voc07_classification": voc07_classification,
    "table": table,
    "report": report,
}
