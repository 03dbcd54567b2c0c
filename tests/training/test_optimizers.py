import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kt_jax.training import optimizers

PARAMS = {
    "dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
}


def make(steps=100, **options):
    chosen = optimizers.Optimizer(**{"learning_rate": 1.0, "warmup": 0} | options)
    return optimizers.make_optimizer(chosen, steps=steps, batch_size=32)


def updates(optimizer, gradients):
    """The updates of PARAMS, gradient after gradient."""
    state, found = optimizer.init(PARAMS), []
    update_fn = jax.jit(optimizer.update)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam wants it
        for gradient in gradients:
            update, state = update_fn(gradient, state, PARAMS)
            found.append(jax.tree.map(np.asarray, update))
    return found


def full(value):
    return jax.tree.map(lambda x: jnp.full_like(x, value), PARAMS)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_weight_decay_spares_biases_and_norms(name):
    (found,) = updates(make(name=name, weight_decay=0.1), [full(0.0)])
    assert (found["dense"]["kernel"] < 0).all()
    assert (found["dense"]["bias"] == 0).all()
    assert (found["norm"]["scale"] == 0).all()
    assert (found["norm"]["bias"] == 0).all()


def test_momentum_is_caffes():
    # v = m v + rate g: after the rate has dropped, the velocity holds what it held.
    optimizer = make(schedule="step", drop_every=2, weight_decay=0.0, clip=1e9)
    found = updates(optimizer, [full(1.0)] * 3)
    steps = [float(update["norm"]["scale"][0]) for update in found]
    np.testing.assert_allclose(steps, [-1.0, -1.9, -(0.9 * 1.9 + 0.1)], rtol=1e-6)


def rates(steps, **options):
    """The rate of every step, of SGD without momentum."""
    optimizer = make(steps=steps, momentum=0.0, weight_decay=0.0, clip=1e9, **options)
    found = updates(optimizer, [full(1.0)] * steps)
    return [-float(update["norm"]["scale"][0]) for update in found]


def test_schedules():
    stepped = rates(40, schedule="step", drop_every=10, warmup=4)
    np.testing.assert_allclose(stepped[:5], [0.0, 0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    np.testing.assert_allclose(stepped[9:11] + stepped[19:21], [1.0, 0.1, 0.1, 0.01], rtol=1e-5)
    assert rates(12, schedule="constant") == [1.0] * 12
    cosine = rates(20, schedule="cosine", warmup=100)
    np.testing.assert_allclose(cosine[:3], [0.0, 0.5, 1.0], rtol=1e-6)  # a tenth of all, at most
    assert cosine[3:] == sorted(cosine[3:], reverse=True)
    assert 0 < cosine[-1] < 0.01


def test_linear_scaling():
    assert rates(2, schedule="constant", reference_batch=8) == [4.0, 4.0]
    assert rates(2, schedule="constant", reference_batch=0) == [1.0, 1.0]


def test_biases_may_learn_faster():
    options = {"momentum": 0.0, "weight_decay": 0.0, "clip": 1e9, "schedule": "constant"}
    (found,) = updates(make(bias_rate=2.0, **options), [full(1.0)])
    assert (found["dense"]["bias"] == -2.0).all()
    assert (found["norm"]["bias"] == -2.0).all()
    assert (found["dense"]["kernel"] == -1.0).all()
    assert (found["norm"]["scale"] == -1.0).all()


def test_the_gradient_is_clipped():
    (found,) = updates(make(clip=2.0, momentum=0.0, weight_decay=0.0), [full(100.0)])
    assert optax.tree.norm(found) == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sdg"}, "name = 'sdg': choose one of sgd, lars, adamw"),
        ({"schedule": "poly"}, "schedule = 'poly': choose one of cosine, step, constant"),
        ({"schedule": "step"}, "drop_every = 0 with schedule = 'step'"),
        ({"drop_every": 5}, "drop_every = 5 with schedule = 'cosine'"),
        ({"learning_rate": float("nan")}, "learning_rate = nan: give a number above 0"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0: give a number above 0"),
        ({"clip": 0.0}, "clip = 0.0: give a number above 0"),
        ({"bias_rate": -1.0}, "bias_rate = -1.0: give a number above 0"),
        ({"momentum": 1.0}, "momentum = 1.0: give a number from 0 to below 1"),
        ({"weight_decay": -1e-4}, "weight_decay = -0.0001: give 0 or more"),
        ({"reference_batch": -64}, "reference_batch = -64: give 0 or more"),
        ({"warmup": -5}, "warmup = -5: give 0 or more steps"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        optimizers.Optimizer(**options)
