"""Training steps of networks that are more than convolutions one after the other."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from kt_jax import models, training
from kt_jax.machine import partition

# And the products (convolutions too) that a step computes again with remat: not those of a
# transformer's second MLP layers, whose results are parts of what is kept.
ARCHITECTURES = [
    pytest.param(
        {"name": "vit_ti", "depth": 2, "heads": 2, "head_dim": 4},
        12,
        id="vit",
        marks=pytest.mark.slow,
    ),
    pytest.param({"name": "resnet18", "width": 0.125, "blocks": (1,)}, 4, id="resnet"),
]


def first_step(architecture, **options):
    """The state after a step, its metrics, and how many products it takes."""

    def make_model(rngs):
        backbone = models.make_backbone(size=12, rngs=rngs, **architecture)
        return models.Classifier(backbone, size=12, classes=3, hidden=(), rngs=rngs)

    rng, mesh = (
        np.random.default_rng(0),
        jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,)),
    )
    images = rng.normal(size=(8, 12, 12, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 8, np.int32)
    batch = partition.put_rows({"image": images, "label": labels}, mesh)
    optimizer = optax.sgd(0.1)
    state = training.init_state(make_model, optimizer, seed=0, mesh=mesh)
    step = training.make_step(
        make_model,
        lambda key, batch: (batch["image"], batch["label"]),
        optimizer,
        key=jax.random.key(0),
        **options,
    )
    lowered = step.lower(state, batch)
    text = lowered.as_text()
    products = sum(text.count(f"stablehlo.{each}") for each in ("dot_general", "convolution"))
    return *jax.device_get(lowered.compile()(state, batch, step.key_data)), products


@pytest.mark.parametrize(("architecture", "repeated"), ARCHITECTURES)
def test_steps_are_the_same_with_less_memory_and_near_in_bfloat16(architecture, repeated):
    whole, metrics, products = first_step(architecture)
    again, same, more = first_step(architecture, remat=True)
    assert more - products == repeated
    np.testing.assert_allclose(same["loss"], metrics["loss"], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again.params, whole.params
    )
    rounded, near, _ = first_step(architecture, precision="bfloat16")
    assert near["loss"] != metrics["loss"]
    np.testing.assert_allclose(near["loss"], metrics["loss"], rtol=0.02)
    for x in jax.tree.leaves((rounded.params, rounded.batch_stats)):
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
