"""Sums on CPUs are the plain ones, and so are their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kt_jax.models import layers, sums


@pytest.mark.parametrize("shape", [(5, 3), (2, 7, 3), (2, 1, 37, 3), (4, 6, 5, 8)])
def test_channel_sums_and_spread_are_each_others_gradients(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = x.astype(np.float64).reshape(-1, shape[-1]).sum(0)
    np.testing.assert_allclose(jax.jit(sums.channel_sums)(x), expected, rtol=1e-5, atol=1e-5)
    # d/dx sum_c w_c S_c(x) is w spread; d/dv <x, spread v> is S(x).
    weights = jnp.arange(1.0, shape[-1] + 1)
    gradient = jax.grad(lambda x: jnp.vdot(weights, sums.channel_sums(x)))(jnp.asarray(x))
    np.testing.assert_array_equal(gradient, np.broadcast_to(weights, shape))
    gradient = jax.grad(lambda v: (x * sums.spread(v, shape)).sum())(weights)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "ours", "plain"),
    [
        ((4, 64, 4, 8), sums.channel_sums, lambda x: x.sum((0, 1, 2))),
        ((64, 4), sums.global_norm, optax.tree.norm),
    ],
)
def test_sums_on_cpus_are_not_windows(shape, ours, plain):
    x = jnp.ones(shape)
    assert "reduce-window" in jax.jit(plain).lower(x).compile().as_text()
    assert "reduce-window" not in jax.jit(ours).lower(x).compile().as_text()


@pytest.mark.parametrize("shapes", [[(16, 3), (5,)], [(3, 3, 4, 8), (7, 11), ()]])
def test_global_norm_is_optaxs(shapes):
    rng = np.random.default_rng(0)
    tree = {str(shape): jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes}
    np.testing.assert_allclose(sums.global_norm(tree), optax.tree.norm(tree), rtol=1e-6)


def test_batch_norm_is_flaxs_with_its_gradients_and_statistics():
    x = jnp.asarray(np.random.default_rng(0).normal(3.0, 2.0, size=(4, 6, 6, 5)), jnp.float32)
    ours = layers.BatchNorm(5)
    flaxs = nnx.BatchNorm(5, momentum=0.9, rngs=nnx.Rngs(0))
    for norm in (ours, flaxs):
        norm.scale[...] = jnp.linspace(0.5, 2.0, 5)
        norm.bias[...] = jnp.linspace(-1.0, 1.0, 5)

    def loss(norm, x):
        return jnp.sin(norm(x)).sum()

    for got, expected in zip(
        jax.tree.leaves(nnx.grad(loss, argnums=(0, 1))(ours, x)),
        jax.tree.leaves(nnx.grad(loss, argnums=(0, 1))(flaxs, x)),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.mean[...], flaxs.mean[...], rtol=1e-5)
    np.testing.assert_allclose(ours.var[...], flaxs.var[...], rtol=1e-5)
    for norm in (ours, flaxs):
        norm.eval()
    np.testing.assert_allclose(ours(x), flaxs(x), rtol=1e-5, atol=1e-5)


def test_convolution_is_flaxs_with_its_gradients():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 9, 4)), jnp.float32)
    options = {"strides": (2, 2), "padding": "VALID", "kernel_init": layers.he_normal}
    ours = layers.Conv(4, 6, (3, 3), rngs=nnx.Rngs(0), **options)
    flaxs = nnx.Conv(4, 6, (3, 3), rngs=nnx.Rngs(0), **options)
    for conv in (ours, flaxs):
        conv.bias[...] = jnp.linspace(-1.0, 1.0, 6)

    def loss(conv, x):
        return jnp.sin(conv(x)).sum()

    for got, expected in zip(
        jax.tree.leaves(nnx.value_and_grad(loss)(ours, x)),
        jax.tree.leaves(nnx.value_and_grad(loss)(flaxs, x)),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
