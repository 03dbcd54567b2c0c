import contextlib
import logging
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType

from kt_jax import models, training
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.pretext import puzzles
from kt_jax.pretext.permutations import make_permutations
from kt_jax.training import loop, optimizers


class Memory:
    """Checkpoints and metrics in memory, and a notice to stop at a step."""

    def __init__(self, stop_at=None):
        self.saved, self.lines, self.resumed, self.begun = {}, [], None, []
        self.stop_at, self.waited, self.before = stop_at, [], []

    def save(self, step, state):
        self.saved[step] = jax.device_get(state)

    def wait(self):
        self.waited.append(max(self.saved))

    def restore(self, like):
        if not self.saved:
            return None
        step = max(self.saved)
        return step, jax.device_put(self.saved[step], jax.tree.map(lambda x: x.sharding, like))

    @contextlib.contextmanager
    def deferred(self):
        yield

    def reached(self):
        return self.begun[-1] == self.stop_at

    def begin(self, step, before):
        self.begun.append(step)
        self.before.append(sorted(before))

    def resume(self, step):
        self.resumed = step

    def write(self, step, metrics):
        self.lines.append((step, metrics))


def make_classifier(rngs):
    backbone = models.make_backbone(
        "vgg", size=8, channels=(4,), convs=(1,), batch_norm=True, rngs=rngs
    )
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


def make_optimizer(steps=6, **options):
    chosen = optimizers.Optimizer(learning_rate=0.1, **options)
    return optimizers.make_optimizer(chosen, steps=steps, batch_size=8)


def run(memory, steps, optimizer=None, chance=None):
    optimizer = optimizer or make_optimizer()
    state = training.init_state(make_classifier, optimizer, seed=0, mesh=partition.make_mesh())
    step_fn = training.make_step(make_classifier, make_examples, optimizer, key=jax.random.key(0))
    return training.fit(
        state, step_fn, make_batches, steps=steps,
        checkpoints=memory, log=memory, notice=memory, log_every=2, checkpoint_every=3,
        chance=chance,
    )  # fmt: skip


def test_everything_in_the_state_moves():
    optimizer = make_optimizer()
    before = training.init_state(make_classifier, optimizer, seed=0, mesh=partition.make_mesh())
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
    with pytest.raises(FloatingPointError, match="the loss became NaN or infinite in step 2"):
        run(Memory(), 6, optax.chain(optax.scale(jnp.inf), optax.sgd(1.0)))


def test_parameters_that_are_not_finite_are_never_kept():
    memory = Memory()
    with pytest.raises(FloatingPointError, match="a parameter became NaN or infinite in step 1"):
        run(memory, 1, optax.chain(optax.scale(jnp.inf), optax.sgd(1.0)))
    assert memory.saved == {}


def test_told_to_stop_it_saves_and_another_call_carries_on():
    whole = jax.device_get(run(Memory(), 6))
    memory = Memory(stop_at=4)
    with pytest.raises(SystemExit) as stopped:
        run(memory, 6)
    assert stopped.value.code == 75
    assert sorted(memory.saved) == [3, 4]
    assert memory.waited == [4]
    assert memory.begun == [1, 2, 3, 4]
    assert memory.before == [[], *[["accuracy", "gradient_norm", "loss"]] * 3]
    memory.stop_at = None
    assert_equal(jax.device_get(run(memory, 6)), whole)
    assert memory.begun[4:] == [5, 6]
    # What follows the last step may take hours too.
    memory = Memory(stop_at=6)
    with pytest.raises(SystemExit):
        run(memory, 6)
    assert memory.waited == [6]


def assert_equal(a, b):
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def test_a_loss_stuck_at_chance_is_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(loop, "_STUCK_STEPS", 4)
    frozen = optax.set_to_zero()
    with caplog.at_level(logging.WARNING):
        run(Memory(), 6, frozen, chance=1e-3)
    assert [record.message[:6] for record in caplog.records] == ["step 4", "step 6"]
    assert "no better than chance (0.001), for 4 steps now" in caplog.text
    caplog.clear()
    run(Memory(), 6, frozen, chance=1e3)
    assert caplog.text == ""


def first_update(parts=1, batch_norm=False, **options):
    """State and metrics after a step, and its program."""

    def make_model(rngs):
        backbone = models.make_backbone(
            "vgg", size=8, channels=(4,), convs=(2,), batch_norm=batch_norm, rngs=rngs
        )
        return models.Classifier(
            backbone, size=8, classes=3, hidden=(8,), dropout=0.0, batch_norm=batch_norm, rngs=rngs
        )

    optimizer = make_optimizer(warmup=0)
    mesh = partition.make_mesh()
    state = training.init_state(make_model, optimizer, seed=0, mesh=mesh)
    step_fn = training.make_step(
        make_model, make_examples, optimizer, key=jax.random.key(0), accumulate=parts, **options
    )
    batch = next(make_batches(0))
    lowered = step_fn.lower(state, batch)
    return *jax.device_get(step_fn(state, batch)), lowered


def test_parts_of_a_batch_give_its_gradient():
    # Without normalisations in the way: they see a part at a time.
    whole, metrics, _ = first_update()
    parts, same, program = first_update(parts=2)
    for name in ("loss", "accuracy", "gradient_norm"):
        np.testing.assert_allclose(same[name], metrics[name], rtol=1e-5)
    assert parts.step == whole.step == 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), parts.params, whole.params
    )
    text = program.compile().as_text()
    assert "all-reduce" in text
    for moved in ("all-gather", "all-to-all", "collective-permute"):
        assert moved not in text


def test_rematerialised_activations_change_nothing():
    whole, metrics, program = first_update()
    again, same, more = first_update(remat=True)
    convolutions = [each.as_text().count("stablehlo.convolution") for each in (program, more)]
    assert convolutions == [5, 7]  # forward and backward; the forward ones again
    assert same["loss"] == metrics["loss"]
    close = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), whole.params, again.params)
    assert jax.tree.all(close)


def test_bfloat16_keeps_float32_where_it_matters():
    _, metrics, _ = first_update(batch_norm=True)
    # bfloat16 meets float32 in normalisations, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        rounded, same, program = first_update(batch_norm=True, precision="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(rounded.params)} == {np.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(rounded.batch_stats)} == {np.dtype("float32")}
    products = re.findall(r"= (\w+)\[.*? (?:convolution|dot)\(", program.as_text(dialect="hlo"))
    assert len(products) > 8
    assert set(products) == {"bf16"}
    assert same["loss"] != metrics["loss"]
    np.testing.assert_allclose(same["loss"], metrics["loss"], rtol=0.02)
    np.testing.assert_allclose(same["gradient_norm"], metrics["gradient_norm"], rtol=0.05)


def test_unknown_precisions_are_refused():
    assert training.compute_dtype("auto") == jnp.float32
    with pytest.raises(ValueError, match="precision = 'float16': choose auto, float32 or bfloat16"):
        training.compute_dtype("float16")


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
            "vgg", size=12, channels=(8, 16), convs=(1, 1), batch_norm=True, rngs=rngs
        )
        return models.JigsawNet(
            backbone, size=12, classes=8, fc6=16, fc7=32, dropout=0.0, batch_norm=True, rngs=rngs
        )

    optimizer = make_optimizer(steps=60, warmup=5)
    mesh = partition.make_mesh()
    state = training.init_state(make_model, optimizer, seed=0, mesh=mesh)
    batch = {"tiles": views.standardise(made.tiles), "label": made.label}
    step_fn = training.make_step(
        make_model, lambda _, batch: (batch["tiles"], batch["label"]), optimizer,
        key=jax.random.key(0),
    )  # fmt: skip
    for _ in range(60):
        state, metrics = step_fn(state, batch)
    assert float(metrics["accuracy"]) == 1.0


def make_alexnet(rngs):
    """In groups and with LRN, as the paper's."""
    backbone = models.make_backbone("alexnet", size=67, channels=(4, 8, 8, 8, 8), rngs=rngs)
    return models.Classifier(backbone, size=67, classes=3, hidden=(8,), rngs=rngs)


def make_student(name, **options):
    """A narrow network of another family."""

    def make(rngs):
        backbone = models.make_backbone(name, size=67, rngs=rngs, **options)
        return models.Classifier(backbone, size=67, classes=3, rngs=rngs)

    return make


def make_solver(rngs):
    """A network of puzzles, with batch norms."""
    backbone = models.make_backbone(
        "vgg", size=12, channels=(4, 8), convs=(1, 1), batch_norm=True, rngs=rngs
    )
    return models.JigsawNet(
        backbone, size=12, classes=8, fc6=16, fc7=32, batch_norm=True, rngs=rngs
    )


def make_puzzles(key, batch):
    rules = puzzles.PuzzleRules(
        crop=48, tile=12, jitter=2, channel_shift=1, grey=0.5, max_occluders=2
    )
    chosen = jnp.asarray(make_permutations(8, min_distance=3, seed=0))
    made = puzzles.make_puzzles(key, batch["image"], chosen, rules)
    return views.standardise(made.tiles), made.label


def make_crops(key, batch):
    crops = views.random_resized_crop(key, batch["image"], size=67, area=(0.5, 1.0))
    return crops, batch["label"]


@pytest.mark.parametrize(
    ("make_model", "make_examples", "size"),
    [
        (make_solver, make_puzzles, 48),
        # They compile for up to half a minute.
        *(
            pytest.param(make_model, make_crops, 80, marks=pytest.mark.slow)
            for make_model in (
                make_alexnet,
                make_student("resnet18", width=0.0625),
                make_student("mobilenet_v3_small", width=0.25),
                make_student("vit_ti", head_dim=8, depth=2, drop_path=0.2),
            )
        ),
    ],
    ids=["vgg", "alexnet", "resnet", "mobilenet", "vit"],
)
def test_the_step_reduces_gradients_and_moves_nothing_else(make_model, make_examples, size):
    optimizer = make_optimizer()
    mesh = partition.make_mesh()
    state = training.init_state(make_model, optimizer, seed=0, mesh=mesh)
    step_fn = training.make_step(make_model, make_examples, optimizer, key=jax.random.key(0))
    pixels = np.zeros((32, size, size, 3), np.uint8)
    batch = partition.put_batch({"image": pixels, "label": np.zeros(32, np.int32)}, mesh)
    text = step_fn.lower(state, batch).compile().as_text()
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    moves = re.findall(rf"^ .*? = (.*?) ({kinds})(?:-start)?\(", text, re.MULTILINE)
    assert {kind for _, kind in moves} == {"all-reduce"}
    shapes = re.findall(r"\w+\[([\d,]*)\]", " ".join(shape for shape, _ in moves))
    reduced = sum(math.prod(int(n) for n in shape.split(",") if n) for shape in shapes)
    # Two moments of each normalised channel forward and two backward; loss and accuracy.
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    moments = 2 * sum(x.size for x in jax.tree.leaves(state.batch_stats))
    # The class token and its position have the same gradient.
    same = jax.tree.leaves(state.params["backbone"].get("class_token", ()))
    parameters -= sum(x.size for x in same)
    assert parameters <= reduced <= parameters + moments + 4
    donated = re.search(r"input_output_alias=\{(.*?)\}, entry", text)[1]
    assert donated.count("may-alias") + donated.count("must-alias") == len(jax.tree.leaves(state))


def test_a_training_is_compiled_once():
    optimizer = make_optimizer()
    state = training.init_state(make_classifier, optimizer, seed=0, mesh=partition.make_mesh())
    step_fn = training.make_step(make_classifier, make_examples, optimizer, key=jax.random.key(0))
    memory = Memory(stop_at=3)
    options = {"checkpoints": memory, "log": memory, "notice": memory, "steps": 6}
    options |= {"log_every": 2, "checkpoint_every": 3}
    with pytest.raises(SystemExit):
        training.fit(state, step_fn, make_batches, **options)
    state = training.init_state(make_classifier, optimizer, seed=0, mesh=partition.make_mesh())
    training.fit(state, step_fn, make_batches, **options)
    assert step_fn.program._cache_size() == 1


def test_trainings_of_other_seeds_are_the_same_program():
    optimizer, mesh = make_optimizer(), partition.make_mesh()
    batch = next(iter(make_batches(0)))
    texts = set()
    for seed in range(2):
        state = training.init_state(make_classifier, optimizer, seed=seed, mesh=mesh)
        key = jax.random.key(seed)
        step_fn = training.make_step(make_classifier, make_examples, optimizer, key=key)
        texts.add(step_fn.lower(state, batch).as_text())
    assert len(texts) == 1


def test_one_device_and_four_learn_the_same():
    def losses(devices):
        mesh = jax.make_mesh(
            (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
        )
        optimizer = make_optimizer(steps=3)
        state = training.init_state(make_classifier, optimizer, seed=0, mesh=mesh)
        step_fn = training.make_step(
            make_classifier, make_examples, optimizer, key=jax.random.key(0)
        )
        values = []
        for batch, _ in zip(make_batches(0, mesh), range(3), strict=False):
            state, metrics = step_fn(state, batch)
            values.append(float(metrics["loss"]))
        return values

    assert np.allclose(losses(1), losses(4), rtol=1e-4)


init_variables = jax.jit(training.init_variables, static_argnums=(0, 1))


def test_networks_differ_by_seed():
    def kernel(seed):
        params, _ = init_variables(make_classifier, seed)
        return np.asarray(jax.tree.leaves(params)[-1])

    assert (kernel(0) == kernel(0)).all()
    assert (kernel(0) != kernel(1)).any()


def test_bind_gives_the_network_its_arrays():
    params, batch_stats = init_variables(make_classifier, 0)
    graphdef = training.structure(make_classifier, training=False)
    model = training.bind(graphdef, params, batch_stats)
    assert isinstance(model, nnx.Module)
    images = jnp.ones((2, 8, 8, 3))
    zeroed = training.bind(graphdef, jax.tree.map(jnp.zeros_like, params), batch_stats)
    assert (np.asarray(zeroed(images)["logits"]) == 0).all()
    assert (np.asarray(model(images)["logits"]) != 0).any()
