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


# Caffe: V = m V + rate (G + decay W), W = W - V; biases have twice the rate and no decay. Here
# m = 0.5, decay = 0.1, and the rate is 1 in the first three steps, then 0.1.
WORKED_BY_HAND = [
    # Gradients of kernel and bias, and what they are after the step; before the first, 2 and 1.
    # V = 0.5 * 0 + 1 (0.4 + 0.1 * 2) = 0.6 and V = 0.5 * 0 + 2 * 0.2 = 0.4.
    (0.4, 0.2, 1.4, 0.6),
    # V = 0.5 * 0.6 + 1 (-0.2 + 0.1 * 1.4) = 0.24 and V = 0.5 * 0.4 + 2 * 0.1 = 0.4.
    (-0.2, 0.1, 1.16, 0.2),
    # V = 0.5 * 0.24 + 1 (0.6 + 0.1 * 1.16) = 0.836 and V = 0.5 * 0.4 - 2 * 0.3 = -0.4.
    (0.6, -0.3, 0.324, 0.6),
    # V = 0.5 * 0.836 + 0.1 (0.2 + 0.1 * 0.324) = 0.44124 and V = 0.5 * -0.4 + 0.2 * 0.4 = -0.12.
    (0.2, 0.4, -0.11724, 0.72),
    # V = 0.5 * 0.44124 + 0.1 (-0.5 - 0.1 * 0.11724) = 0.1694476 and
    # V = 0.5 * -0.12 + 0.2 * 0.1 = -0.04.
    (-0.5, 0.1, -0.2866876, 0.76),
]


def test_five_steps_of_caffe_worked_by_hand():
    options = {"momentum": 0.5, "weight_decay": 0.1, "bias_rate": 2.0, "clip": 0.0}
    optimizer = make(steps=5, schedule="step", drop_every=3, **options)
    params = {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.full(1, 1.0)}
    state = optimizer.init(params)
    for kernel_gradient, bias_gradient, kernel, bias in WORKED_BY_HAND:
        gradient = {
            "kernel": jnp.full((1, 1), kernel_gradient),
            "bias": jnp.full(1, bias_gradient),
        }
        update, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, update)
        assert params["kernel"].item() == pytest.approx(kernel, rel=1e-5)
        assert params["bias"].item() == pytest.approx(bias, rel=1e-5)


def rates(steps, **options):
    """The rate of every step, of SGD without momentum."""
    optimizer = make(steps=steps, momentum=0.0, weight_decay=0.0, clip=0.0, **options)
    found = updates(optimizer, [full(1.0)] * steps)
    return [-float(update["norm"]["scale"][0]) for update in found]


def test_schedules():
    stepped = rates(40, schedule="step", drop_every=10, warmup=4)
    np.testing.assert_allclose(stepped[:5], [0.0, 0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    np.testing.assert_allclose(stepped[9:11] + stepped[19:21], [1.0, 0.1, 0.1, 0.01], rtol=1e-5)
    halved = rates(40, schedule="step", drop_every=10, drop=0.5)
    np.testing.assert_allclose(halved[9:11] + halved[19:21], [1.0, 0.5, 0.5, 0.25], rtol=1e-5)
    assert rates(12, schedule="constant") == [1.0] * 12
    cosine = rates(20, schedule="cosine", warmup=100)
    np.testing.assert_allclose(cosine[:3], [0.0, 0.5, 1.0], rtol=1e-6)  # a tenth of all, at most
    assert cosine[3:] == sorted(cosine[3:], reverse=True)
    assert 0 < cosine[-1] < 0.01


def test_linear_scaling():
    assert rates(2, schedule="constant", reference_batch=8) == [4.0, 4.0]
    assert rates(2, schedule="constant", reference_batch=0) == [1.0, 1.0]


def test_biases_may_learn_faster():
    options = {"momentum": 0.0, "weight_decay": 0.0, "clip": 0.0, "schedule": "constant"}
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
        ({"clip": -1.0}, "clip = -1.0: give 0 or more"),
        ({"bias_rate": -1.0}, "bias_rate = -1.0: give a number above 0"),
        ({"momentum": 1.0}, "momentum = 1.0: give a number from 0 to below 1"),
        ({"weight_decay": -1e-4}, "weight_decay = -0.0001: give 0 or more"),
        ({"reference_batch": -64}, "reference_batch = -64: give 0 or more"),
        ({"drop": 0.0}, "drop = 0.0: give a number above 0 up to 1"),
        ({"warmup": -5}, "warmup = -5: give 0 or more steps"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        optimizers.Optimizer(**options)
