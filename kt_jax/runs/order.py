"""The stages in their order, and which of them read which."""

from collections.abc import Collection
from types import ModuleType

from kt_jax.stages import clusters, features, pretext, probe, pseudo_labels, report, student

STAGES: dict[str, ModuleType] = {
    "pretext": pretext,
    "features": features,
    "clusters": clusters,
    "pseudo_labels": pseudo_labels,
    "student": student,
    "probe": probe,
    "report": report,
}


def check_names(origin: str, names: Collection[str]) -> None:
    """Refuses what is no stage.

    Raises:
      ValueError: saying where the name comes from.
    """
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise ValueError(f"{origin} names {unknown[0]!r}: the stages are {', '.join(STAGES)}.")


def with_readers(names: Collection[str]) -> list[str]:
    """The stages and all that read them, in order."""
    found: list[str] = []
    for name, module in STAGES.items():
        if name in names or any(needed in found for needed in module.READS):
            found.append(name)
    return found


def with_inputs(names: Collection[str]) -> list[str]:
    """The stages and all that they read, in order."""
    found: set[str] = set()
    for name in reversed(STAGES):
        if name in names or name in found:
            found |= {name, *STAGES[name].READS}
    return [name for name in STAGES if name in found]
