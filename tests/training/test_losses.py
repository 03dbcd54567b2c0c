import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from kt_jax import models, training
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.training import losses


def test_the_loss_of_crops_is_the_mean_over_all_with_the_labels_of_their_images():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 3, 5)).astype(np.float32)
    labels = np.array([0, 4, 1, 1], np.int32)
    loss, metrics = losses.over_crops(training.cross_entropy)(
        {"logits": jnp.asarray(logits)}, jnp.asarray(labels)
    )
    chosen = np.take_along_axis(special.log_softmax(logits, -1), labels[:, None, None], -1)
    np.testing.assert_allclose(loss, -chosen.mean(), rtol=1e-6)
    assert metrics["accuracy"] == np.float32((logits.argmax(-1) == labels[:, None]).mean())


def test_shares_are_learned_by_their_cross_entropy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 5)).astype(np.float32)
    shares = special.softmax(rng.normal(size=(6, 5)), -1).astype(np.float32)
    loss, metrics = losses.soft_cross_entropy({"logits": jnp.asarray(logits)}, jnp.asarray(shares))
    expected = -(shares * special.log_softmax(logits, -1)).sum(-1).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert metrics["accuracy"] == np.float32((logits.argmax(-1) == shares.argmax(-1)).mean())
    # Of shares that are 0 and 1 it is that of labels.
    labels = shares.argmax(-1).astype(np.int32)
    one, _ = losses.soft_cross_entropy({"logits": jnp.asarray(logits)}, jnp.eye(5)[labels])
    other, _ = training.cross_entropy({"logits": jnp.asarray(logits)}, jnp.asarray(labels))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_directions_are_learned_by_their_cosine():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 6, 5)).astype(np.float32)
    labels /= np.linalg.norm(labels, axis=1, keepdims=True)
    labels[0] = 0
    loss, metrics = losses.cosine_distance({"logits": jnp.asarray(logits)}, jnp.asarray(labels))
    cosines = (logits * labels).sum(1) / np.linalg.norm(logits, axis=1)
    np.testing.assert_allclose(loss, 1 - cosines.mean(), rtol=1e-6)
    assert metrics.keys() == {"loss"}
    # Whatever the length of the logits, and finite where they have none.
    longer, _ = losses.cosine_distance({"logits": jnp.asarray(7 * logits)}, jnp.asarray(labels))
    np.testing.assert_allclose(longer, loss, rtol=1e-5)

    def of(logits):
        return losses.cosine_distance({"logits": logits}, jnp.asarray(labels))[0]

    assert np.isfinite(jax.grad(of)(jnp.zeros((6, 5)))).all()


def test_a_step_of_crops_in_two_sizes_moves_no_rows_between_devices():
    def make_model(rngs):
        backbone = models.make_backbone(
            "alexnet", size=64, channels=(4,) * 5, batch_norm=True, rngs=rngs
        )
        return models.Classifier(
            backbone, size=64, classes=3, hidden=(8,), batch_norm=True, rngs=rngs
        )

    def make_examples(key, batch):
        large, small = (
            views.random_crops(key, batch["image"], count=2, size=size, area=(0.5, 1.0))
            for key, size in zip(jax.random.split(key), (64, 32), strict=True)
        )
        return (large, small), batch["label"]

    optimizer, mesh = optax.sgd(0.1), partition.make_mesh()
    state = training.init_state(make_model, optimizer, seed=0, mesh=mesh)
    step_fn = training.make_step(
        make_model, make_examples, optimizer, key=jax.random.key(0), accumulate=2,
        loss_fn=losses.over_crops(training.cross_entropy),
    )  # fmt: skip
    pixels = np.zeros((16, 64, 64, 3), np.uint8)
    batch = partition.put_batch({"image": pixels, "label": np.zeros(16, np.int32)}, mesh)
    text = step_fn.lower(state, batch).compile().as_text()
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    assert set(re.findall(rf" ({kinds})(?:-start)?\(", text)) == {"all-reduce"}
