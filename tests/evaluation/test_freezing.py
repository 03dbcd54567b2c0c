"""A layer's arrays are found by what it computes, and training leaves them as they are."""

import jax
import numpy as np
import pytest
from flax import nnx

from kt_jax import models, training
from kt_jax.evaluation import freezing
from kt_jax.training import optimizers

SIZE = 16


class OfFlax(nnx.Module):
    """An architecture of one's own, of flax's layers."""

    probe_layers = ("conv1", "conv2")

    def __init__(self, *, size, rngs):
        self.convs = nnx.List(
            [nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Conv(4, 4, (3, 3), rngs=rngs)]
        )
        self.norms = nnx.List([nnx.BatchNorm(4, rngs=rngs) for _ in range(2)])

    def __call__(self, x, key=None):
        activations = {}
        for number in range(2):
            x = nnx.relu(self.norms[number](self.convs[number](x)))
            activations[f"conv{number + 1}"] = x
        return activations


models.register("flax", OfFlax)
NETWORKS = {
    "alexnet": ("conv2", {"channels": (4,) * 5, "batch_norm": True}),
    "vgg": ("pool1", {"channels": (4, 4), "convs": (1, 1), "batch_norm": True}),
    "vit_ti": ("block1", {"head_dim": 4, "depth": 2, "drop_path": 0.5}),
    "flax": ("conv1", {}),
}
OWN = {
    "alexnet": {("layers", n, part) for n in (0, 1) for part in ("conv", "norm")},
    "vgg": {("blocks", 0, 0, "conv"), ("blocks", 0, 0, "norm")},
}


def make(name, frozen=(), hidden=(8,)):
    def make_model(rngs):
        backbone = models.make_backbone(name, size=SIZE, rngs=rngs, **NETWORKS[name][1])
        options = {"size": SIZE, "classes": 3, "hidden": hidden, "batch_norm": True}
        model = freezing.PartlyFrozen(backbone, rngs=rngs, **options)
        model.freeze(frozen)
        return model

    return make_model


@pytest.mark.parametrize("name", OWN)
def test_a_layer_needs_its_own_arrays_and_those_before(name):
    needed = freezing.find_needed(make(name), NETWORKS[name][0], SIZE)
    assert {path[1:-1] for path in needed} == OWN[name]
    arrays = {path[-1] for path in needed}
    assert arrays == {"kernel", "scale", "bias", "mean", "var"}


def test_a_hidden_layer_needs_the_backbone_too():
    needed = freezing.find_needed(make("vgg"), "fc6", SIZE)
    assert ("hidden", 0, "linear", "kernel") in needed
    assert {path[0] for path in needed} == {"backbone", "hidden"}


def test_a_layer_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="'conv9' is no layer: choose from conv1_1, pool1, "):
        freezing.find_needed(make("vgg"), "conv9", SIZE)


@pytest.mark.parametrize("name", ["vgg", "flax"])
def test_training_leaves_frozen_arrays_and_statistics_and_changes_all_others(name):
    layer = NETWORKS[name][0]
    needed = freezing.find_needed(make(name), layer, SIZE)
    chosen = optimizers.Optimizer(learning_rate=0.1, warmup=0, weight_decay=0.1)
    optimizer = optimizers.make_optimizer(chosen, steps=2, batch_size=4)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(4, SIZE, SIZE, 3)).astype(np.float32),
        "label": np.array([0, 1, 2, 1], np.int32),
    }
    step = training.make_step(
        make(name, frozen=needed),
        lambda key, batch: (batch["image"], batch["label"]),
        optimizer,
        key=jax.random.key(0),
    )

    @jax.jit
    def begin():
        params, batch_stats = training.init_variables(make(name, frozen=needed), 0)
        return training.TrainState(np.int32(0), params, batch_stats, optimizer.init(params))

    state = begin()
    assert not needed & freezing.flatten(state.params).keys()
    before, trained = flatten(state), freezing.flatten(state.params).keys()
    for _ in range(2):
        state, _ = step(state, batch)
    after = flatten(state)
    changed = {path for path in before if (before[path] != after[path]).any()}
    assert needed <= before.keys()
    assert changed == before.keys() - needed
    assert trained <= changed


def flatten(state):
    """Parameters and statistics on the host."""
    trees = jax.device_get((state.params, state.batch_stats))
    return freezing.flatten(trees[0]) | freezing.flatten(trees[1])


def test_a_layer_with_frozen_arrays_draws_nothing_in_training():
    """The first block of a vision transformer needs its class token, which the network holds."""
    needed = freezing.find_needed(make("vit_ti"), "block1", SIZE)
    assert ("backbone", "class_token") in needed
    assert not any(path[:3] == ("backbone", "blocks", 1) for path in needed)
    for frozen, deterministic in (((), False), (needed, True)):
        model = nnx.eval_shape(lambda frozen=frozen: make("vit_ti", frozen=frozen)(nnx.Rngs(0)))
        model.train()
        assert model.backbone.deterministic is deterministic
        assert not model.hidden[0].norm.use_running_average


def test_an_array_that_there_is_not_cannot_be_frozen():
    with pytest.raises(ValueError, match=r"no array \('output', 'scale'\) to freeze"):
        make("vgg", frozen=[("output", "scale")])(nnx.Rngs(0))


def test_arrays_are_put_where_they_belong_and_of_another_shape_refused():
    tree = {"a": {0: jax.numpy.zeros(2)}, "b": jax.numpy.zeros(1)}
    arrays = {("a", 0): np.ones(2), ("c",): np.ones(1)}
    found = freezing.put(tree, arrays)
    assert found["a"][0].tolist() == [1, 1]
    assert found["b"].tolist() == [0]
    with pytest.raises(ValueError, match=r"a/0 has the shape \(3,\), but \(2,\) is needed"):
        freezing.put(tree, {("a", 0): np.ones(3)})
