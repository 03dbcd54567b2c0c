import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from kt_jax import training
from kt_jax.machine import partition
from kt_jax.training import state as states
from kt_jax.training import step


@pytest.mark.parametrize("decay", [0.5, 0.999, 0.9999])
def test_the_average_weighs_old_values_less_and_those_before_training_not_at_all(decay):
    values = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    # What stood there before has no part in it.
    average = {"x": jnp.full(3, 5.0)}
    for number, value in enumerate(values, 1):
        average = step.move_average(average, {"x": jnp.asarray(value)}, decay, jnp.int32(number))
        weights = decay ** np.arange(number - 1, -1, -1.0)
        expected = weights @ values[:number].astype(np.float64) / weights.sum()
        np.testing.assert_allclose(average["x"], expected, atol=2e-6)


def test_what_is_learned_is_the_average_where_there_is_one():
    plain = states.TrainState(0, "params", "statistics", "optimizer")
    assert training.learned(plain) == ("params", "statistics")
    averaged = states.AveragedState(0, "params", "statistics", "optimizer", ("mean", "means"))
    assert training.learned(averaged) == ("mean", "means")


def test_a_checkpoint_has_an_average_only_if_it_is_kept():
    mesh = partition.make_mesh()

    def names(averages):
        made = jax.eval_shape(
            lambda: training.init_state(
                lambda rngs: nnx.Linear(2, 2, rngs=rngs), optax.sgd(0.1), seed=0, mesh=mesh,
                averages=averages,
            )
        )  # fmt: skip
        return {jax.tree_util.keystr(path[:1]) for path, _ in jax.tree.leaves_with_path(made)}

    assert names(True) - names(False) == {".average"}
