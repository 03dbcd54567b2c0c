"""The config that docs/evaluations_transfer.md shows is one that can be run."""

import re
from pathlib import Path

import kt_jax
from kt_jax.runs import graph

PAGE = Path(__file__).parents[2] / "docs" / "evaluations_transfer.md"


def test_the_config_of_the_page_makes_a_graph(tmp_path):
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "evaluate.py"
    file.write_text(source)
    config = kt_jax.load_config(f"{file}:runs/tiny")
    nodes = graph.make_graph(graph.fill(config.to_dict()))
    assert {node.kind for node in nodes.values()} == {
        "fine_tune", "nonlinear", "control_labels", "classify", "report",
    }  # fmt: skip
    assert nodes["nonlinear"].inputs["backbones"][1].is_random
    assert nodes["nonlinear"].options.layers == ("conv1", "conv5")


def test_the_page_names_every_option_that_is_of_its_kinds_alone():
    text = PAGE.read_text()
    for name in ("backbone", "crop_area", "views", "layers", "of", "k", "train", "least_positives"):
        assert f"`{name}" in text or f"**`{name}`**" in text
