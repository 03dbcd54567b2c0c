import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kt_jax.models import layers


def gradient(make, dtype):
    """The function of (state, rows) that gives the gradient of a layer, its state, and rows."""
    graphdef, state = nnx.split(make(3, 2, rngs=nnx.Rngs(0)))
    state = jax.tree.map(lambda x: x.astype(dtype), state)
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(64, 3)), dtype)

    def loss(state, rows):
        return jnp.square(nnx.merge(graphdef, state)(rows).astype(jnp.float32)).sum()

    return jax.grad(loss), state, rows


def test_a_dense_layer_is_flax_s():
    (grad, *given), (expected, *_) = (gradient(x, jnp.float32) for x in (layers.Dense, nnx.Linear))
    jax.tree.map(np.testing.assert_array_equal, grad(*given), expected(*given))


@pytest.mark.parametrize(("make", "dtype"), [(layers.Dense, "f32"), (nnx.Linear, "bf16")])
def test_the_gradient_of_a_bias_is_summed_in_float32(make, dtype):
    grad, *given = gradient(make, jnp.bfloat16)
    text = jax.jit(grad).lower(*given).as_text()
    reduced = re.findall(r"stablehlo\.reduce\(.*\(tensor<64x2x(\w+)>", text)
    assert reduced == [dtype]
