"""Which artifacts an artifact was made from, by the hashes in its manifest."""

from collections.abc import Sequence
from typing import Any

from kt_jax.runs import artifacts
from kt_jax.runs.artifacts import Artifact

_NEW_WEIGHTS = ("random:", "artifact with new weights")


def find_inputs(made: Artifact[Any], among: Sequence[Artifact[Any]]) -> list[Artifact[Any]]:
    """The inputs of an artifact. Networks with new random weights do not count as inputs."""
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
    """The nearest network from which this one was made, through features and labels; or None."""
    wave = find_inputs(network, among)
    while wave:
        for each in wave:
            if isinstance(each.about, artifacts.Backbone):
                return each
        wave = [further for each in wave for further in find_inputs(each, among)]
    return None
