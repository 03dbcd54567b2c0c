"""From which artifacts an artifact was made, by the hashes of them in its manifest."""

from collections.abc import Sequence
from typing import Any

from kt_jax.runs import artifacts
from kt_jax.runs.artifacts import Artifact

_NEW_WEIGHTS = ("random:", "artifact with new weights")


def find_inputs(made: Artifact[Any], among: Sequence[Artifact[Any]]) -> list[Artifact[Any]]:
    """Those that it read; a network whose weights were drawn anew for it is none of them."""
    options = made.manifest["fingerprint"].get("inputs", {})
    read = {
        digest
        for inputs in options.values()
        for name, digest in inputs.items()
        if not name.startswith(_NEW_WEIGHTS)
    }
    return [each for each in among if each.manifest["outputs"] in read]


def find_teacher(
    network: Artifact[artifacts.Backbone], among: Sequence[Artifact[Any]]
) -> Artifact[artifacts.Backbone] | None:
    """The nearest network that it comes from, as by features, clusters and labels, if any."""
    wave = find_inputs(network, among)
    while wave:
        for each in wave:
            if isinstance(each.about, artifacts.Backbone):
                return each
        wave = [further for each in wave for further in find_inputs(each, among)]
    return None
