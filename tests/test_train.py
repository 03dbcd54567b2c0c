import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType

from kt_jax import models, partition, puzzles, train, views
from kt_jax.permutations import make_permutations


class Memory:
    """Checkpoints and metrics in memory."""

    def __init__(self):
        self.saved, self.lines, self.resumed = {}, [], None

    def latest_step(self):
        return max(self.saved, default=None)

    def save(self, step, state):
        self.saved[step] = jax.device_get(state)

    def restore(self, step, like):
        return jax.device_put(self.saved[step], jax.tree.map(lambda x: x.sharding, like))

    def resume(self, step):
        self.resumed = step

    def write(self, step, metrics):
        self.lines.append((step, metrics))


def make_classifier(rngs):
    backbone = models.make_backbone("vgg", channels=(4,), convs=(1,), batch_norm=True, rngs=rngs)
    return models.Classifier(
        backbone, size=8, classes=3, hidden=(8,), dropout=0.5, batch_norm=True, rngs=rngs
    )


def make_examples(key, batch):
    del key
    return batch["image"].astype(jnp.float32) / 255, batch["label"]


def make_batches(first_step, mesh=None):
    step, mesh = first_step, mesh or partition.make_mesh()
    while True:
        rng = np.random.default_rng(step)
        batch = {
            "image": rng.integers(0, 256, (8, 8, 8, 3), np.uint8),
            "label": rng.integers(0, 3, 8).astype(np.int32),
        }
        yield partition.put_batch(batch, mesh)
        step += 1


def run(memory, steps, optimizer=None):
    optimizer = optimizer or train.make_optimizer(steps=6, learning_rate=0.1)
    state = train.init_state(make_classifier, optimizer, seed=0, mesh=partition.make_mesh())
    step_fn = train.make_step(make_classifier, make_examples, optimizer, key=jax.random.key(0))
    return train.fit(
        state, step_fn, make_batches, steps=steps,
        checkpoints=memory, log=memory, log_every=2, checkpoint_every=3,
    )  # fmt: skip


def test_everything_in_the_state_moves():
    optimizer = train.make_optimizer(steps=6, learning_rate=0.1)
    before = train.init_state(make_classifier, optimizer, seed=0, mesh=partition.make_mesh())
    before = jax.device_get(before)
    memory = Memory()
    after = jax.device_get(run(memory, 6))
    assert after.step == 6
    for name in ("params", "batch_stats"):
        old, new = getattr(before, name), getattr(after, name)
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), old, new)
        # All but the biases before a normalisation: the mean takes them out again.
        still = [path for path, moves in jax.tree.leaves_with_path(moved) if not moves]
        assert all(jax.tree_util.keystr(path).endswith("['bias']") for path in still)
        assert len(still) <= 2
    momentum = [x for x in jax.tree.leaves(after.opt_state) if x.ndim > 1]
    assert momentum
    assert all((x != 0).any() for x in momentum)
    assert [step for step, _ in memory.lines] == [2, 4, 6]
    assert sorted(memory.saved) == [3, 6]


def test_an_interrupted_run_ends_like_an_uninterrupted_one():
    whole = jax.device_get(run(Memory(), 6))
    memory = Memory()
    run(memory, 3)
    resumed = jax.device_get(run(memory, 6))
    assert memory.resumed == 3
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), whole, resumed))


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(FloatingPointError, match="became NaN or infinite between steps 0 and 2"):
        run(Memory(), 6, optax.chain(optax.scale(jnp.inf), optax.sgd(1.0)))


def test_weight_decay_spares_biases_and_norms():
    optimizer = train.make_optimizer(steps=10, learning_rate=1.0, weight_decay=0.1, warmup=0)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert (np.asarray(updates["bias"]) == 0).all()
    assert (np.asarray(updates["kernel"]) < 0).all()


@pytest.mark.slow
def test_a_small_network_overfits_eight_puzzles():
    rules = puzzles.PuzzleRules(
        crop=48, tile=12, jitter=0, channel_shift=0, grey=0.0, max_occluders=0
    )
    chosen = jnp.asarray(make_permutations(8, min_distance=3, seed=0))
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 48, 48, 3), np.uint8))
    made = puzzles.make_puzzles(jax.random.key(0), images, chosen, rules)

    def make_model(rngs):
        backbone = models.make_backbone(
            "vgg", channels=(8, 16), convs=(1, 1), batch_norm=True, rngs=rngs
        )
        return models.JigsawNet(
            backbone, size=12, classes=8, fc6=16, fc7=32, dropout=0.0, batch_norm=True, rngs=rngs
        )

    optimizer = train.make_optimizer(steps=60, learning_rate=0.1, warmup=5)
    mesh = partition.make_mesh()
    state = train.init_state(make_model, optimizer, seed=0, mesh=mesh)
    batch = {"tiles": views.standardise(made.tiles), "label": made.label}
    step_fn = train.make_step(
        make_model, lambda _, batch: (batch["tiles"], batch["label"]), optimizer,
        key=jax.random.key(0),
    )  # fmt: skip
    for _ in range(60):
        state, metrics = step_fn(state, batch)
    assert float(metrics["accuracy"]) == 1.0


def test_the_step_reduces_gradients_and_gathers_nothing():
    optimizer = train.make_optimizer(steps=6, learning_rate=0.1)
    mesh = partition.make_mesh()
    state = train.init_state(make_classifier, optimizer, seed=0, mesh=mesh)
    step_fn = train.make_step(make_classifier, make_examples, optimizer, key=jax.random.key(0))
    text = step_fn.lower(state, next(make_batches(0))).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text
    assert "input_output_alias" in text


def test_one_device_and_four_learn_the_same():
    def losses(devices):
        mesh = jax.make_mesh(
            (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
        )
        optimizer = train.make_optimizer(steps=3, learning_rate=0.1)
        state = train.init_state(make_classifier, optimizer, seed=0, mesh=mesh)
        step_fn = train.make_step(make_classifier, make_examples, optimizer, key=jax.random.key(0))
        values = []
        for batch, _ in zip(make_batches(0, mesh), range(3), strict=False):
            state, metrics = step_fn(state, batch)
            values.append(float(metrics["loss"]))
        return values

    assert np.allclose(losses(1), losses(4), rtol=1e-4)


def test_networks_differ_by_seed():
    def kernel(seed):
        params, _ = train.init_variables(make_classifier, seed)
        return np.asarray(jax.tree.leaves(params)[-1])

    assert (kernel(0) == kernel(0)).all()
    assert (kernel(0) != kernel(1)).any()


def test_bind_gives_the_network_its_arrays():
    params, batch_stats = train.init_variables(make_classifier, 0)
    graphdef = train.structure(make_classifier, training=False)
    model = train.bind(graphdef, params, batch_stats)
    assert isinstance(model, nnx.Module)
    images = jnp.ones((2, 8, 8, 3))
    zeroed = train.bind(graphdef, jax.tree.map(jnp.zeros_like, params), batch_stats)
    assert (np.asarray(zeroed(images)["logits"]) == 0).all()
    assert (np.asarray(model(images)["logits"]) != 0).any()
