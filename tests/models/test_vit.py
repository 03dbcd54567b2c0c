import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from kt_jax import training
from kt_jax.evaluation import backbones
from kt_jax.machine import partition
from kt_jax.models.vit import ViT


def make(**options):
    """A small one, in training."""
    options = {"size": 12, "depth": 2, "heads": 2, "head_dim": 4} | options
    return nnx.jit(lambda: ViT(rngs=nnx.Rngs(0), **options))()


def noise(count, height, width):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(count, height, width, 3)), jnp.float32)


# As training calls it: one program.
apply = nnx.jit(lambda model, x, key=None: model(x, key))


@pytest.mark.parametrize(
    ("name", "count"), [("vit_ti", 5_524_416), ("vit_s", 21_665_664), ("vit_b", 85_798_656)]
)
def test_vits_have_the_published_parameters(name, count):
    assert backbones.describe({"name": name}, 224).parameters == count


def test_dinov2_has_the_published_parameters():
    """22,056,576 of ViT-S/14 without its mask token, and four register tokens."""
    dino = {"name": "vit_s", "patch": 14, "layer_scale": True, "registers": 4}
    assert backbones.describe(dino, 518).parameters == 22_056_576 - 384 + 4 * 384


def test_layer_scale_multiplies_what_attention_and_mlp_add():
    model, x = make(depth=1, layer_scale=True), noise(2, 12, 12)
    block = model.blocks[0]
    assert (np.asarray(block.scale1[...]) == np.float32(1e-5)).all()
    for scale in (block.scale1, block.scale2):
        scale[...] = jnp.zeros_like(scale[...])
    made = apply(model, x)
    assert (np.asarray(made["block1"]) == np.asarray(made["embedding"])).all()
    block.scale2[...] = jnp.ones_like(block.scale2[...])
    once = np.asarray(apply(model, x)["block1"] - made["embedding"])
    block.scale2[...] = 3 * jnp.ones_like(block.scale2[...])
    thrice = np.asarray(apply(model, x)["block1"] - made["embedding"])
    np.testing.assert_allclose(thrice, 3 * once, atol=1e-5)


def test_registers_are_attended_to_and_not_shown():
    model, x = make(depth=2, registers=3), noise(2, 12, 12)
    made = apply(model, x)
    assert made["block2"].shape == (2, 6, 6, 8)
    model.registers[...] = model.registers[...] + 1 + jnp.arange(8.0)[None]
    other = apply(model, x)
    assert (np.asarray(made["embedding"]) == np.asarray(other["embedding"])).all()
    assert np.abs(np.asarray(made["class_token"] - other["class_token"])).max() > 1e-3


@pytest.mark.parametrize(
    ("size", "side"), [(224, 14), (128, 8), (96, 8), (64, 8), (48, 8), (24, 8), (12, 6)]
)
def test_patches_follow_the_size(size, side):
    shapes = backbones.describe({"name": "vit_ti", "depth": 2}, size).layers
    assert list(shapes) == ["embedding", *(f"block{n}" for n in (1, 2)), "class_token"]
    assert {shapes[name] for name in list(shapes)[:-1]} == {(side, side, 192)}
    assert shapes["class_token"] == (192,)


def test_layers_to_probe_are_spread_over_the_depth():
    def probed(depth):
        return nnx.eval_shape(lambda: ViT(size=12, depth=depth, rngs=nnx.Rngs(0))).probe_layers

    assert probed(12) == ("block3", "block6", "block9", "block12", "class_token")
    assert probed(2) == ("block1", "block2", "class_token")


def test_width_changes_the_number_of_heads_and_not_their_dimension():
    wide = nnx.eval_shape(lambda: ViT(size=12, depth=1, heads=3, width=2.0, rngs=nnx.Rngs(0)))
    narrow = nnx.eval_shape(lambda: ViT(size=12, depth=1, heads=3, width=0.1, rngs=nnx.Rngs(0)))
    assert (wide.blocks[0].heads, wide.class_token.shape) == (6, (1, 384))
    assert (narrow.blocks[0].heads, narrow.class_token.shape) == (1, (1, 64))


def test_initial_values_are_deits():
    model = make(size=32, depth=1, heads=4, head_dim=32)
    values = {
        ".".join(map(str, path)): np.asarray(value)
        for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    bound = 1 / np.sqrt(4 * 4 * 3)
    for name in ("patches.kernel", "patches.bias"):
        value = values.pop(name)
        assert 0.95 * bound < np.abs(value).max() <= bound
        assert value.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)
    gaussian = [name for name in values if name.endswith((".kernel", "class_token", "positions"))]
    assert len(gaussian) == 6
    for name in gaussian:
        value = values.pop(name)
        assert value.std() == pytest.approx(0.02, rel=0.2 if value.size < 1_000 else 0.03)
        assert abs(value.mean()) < 3 * 0.02 / np.sqrt(value.size)
        # No more than rounding says is beyond three deviations, and so not truncated at two.
        if value.size > 10_000:
            assert (np.abs(value) > 0.04).mean() == pytest.approx(0.0455, rel=0.1)
    for name, value in values.items():
        assert (value == (1.0 if name.endswith(".scale") else 0.0)).all(), name


def branches(model, x, key=None):
    """What each branch of each block was multiplied by, [n, blocks, 2].

    `model` is changed so that its attentions add 1 to the first channel, and its MLPs to the
    second, whatever comes in.
    """
    for block in model.blocks:
        for channel, layer in enumerate((block.projection, block.fc2)):
            layer.kernel[...] = jnp.zeros_like(layer.kernel[...])
            layer.bias[...] = jnp.zeros_like(layer.bias[...]).at[channel].set(1.0)
    made = apply(model, x, key)
    names = ["embedding", *(f"block{number + 1}" for number in range(len(model.blocks)))]
    added = np.diff(np.stack([np.asarray(made[name]) for name in names], 1)[..., :2], axis=1)
    np.testing.assert_allclose(added, added[:, :, :1, :1] + 0 * added, atol=1e-5)  # dropped whole
    return added[:, :, 0, 0]


def test_stochastic_depth_drops_at_rates_that_rise_with_the_depth():
    count, rates = 2_000, np.array([0.0, 0.25, 0.5])
    model = make(size=4, depth=3, drop_path=0.5)
    x = jnp.zeros((count, 4, 4, 3))
    factors = branches(model, x, jax.random.key(0))
    kept = factors > 0.5
    # Either 0, or what keeps the expectation.
    expected = np.where(kept, 1 / (1 - rates)[:, None], 0)
    np.testing.assert_allclose(factors, expected, atol=1e-5)
    margin = 4 * np.sqrt(rates * (1 - rates) / count)[:, None]
    assert (np.abs(kept.mean(0) - (1 - rates)[:, None]) <= margin).all()
    # Blocks, branches and examples are dropped apart from one another.
    draws = kept[:, 1:].reshape(count, -1)
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 4 / np.sqrt(count)
    assert abs(np.corrcoef(draws[1:, 0], draws[:-1, 0])[0, 1]) < 4 / np.sqrt(count)
    np.testing.assert_allclose(branches(model, x[:2]), 1, atol=1e-5)  # there is no key
    model.eval()
    np.testing.assert_allclose(branches(model, x[:2], jax.random.key(0)), 1, atol=1e-5)


def test_draws_are_of_the_example_whatever_the_batch_and_the_devices():
    model = make(drop_path=0.5)
    x, key = noise(8, 12, 12), jax.random.key(0)
    drawn = np.asarray(apply(model, x, key)["class_token"])
    assert np.abs(drawn - np.asarray(apply(model, x, jax.random.key(1))["class_token"])).max() > 0.1
    few = apply(model, x[:3], key)["class_token"]
    np.testing.assert_allclose(np.asarray(few), drawn[:3], atol=1e-5)
    shared = jax.device_put(x, NamedSharding(partition.make_mesh(), P("data")))
    assert len(shared.sharding.device_set) == 4
    spread = apply(model, shared, key)["class_token"]
    np.testing.assert_allclose(np.asarray(spread), drawn, atol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (9, 13), (2, 4)])
def test_position_embeddings_are_resized_as_pillow_resizes(rows, columns):
    model = make(depth=1)
    model.patches.bias[...] = jnp.zeros_like(model.patches.bias[...])
    black = jnp.zeros((1, 2 * rows, 2 * columns, 3))
    found = np.asarray(apply(model, black)["embedding"])[0]
    learned = np.asarray(model.positions[...])[1:].reshape(6, 6, -1)
    for channel in range(learned.shape[-1]):
        image = Image.fromarray(learned[..., channel])
        expected = np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(found[..., channel], expected, atol=1e-6)


def test_a_rest_that_fills_no_patch_is_dropped():
    model, x = make(depth=1, patch=5, size=20), noise(2, 22, 24)
    whole, cut = apply(model, x), apply(model, x[:, :20, :20])
    assert whole["block1"].shape == (2, 4, 4, 8)
    assert (np.asarray(whole["class_token"]) == np.asarray(cut["class_token"])).all()


def test_bfloat16_stays_bfloat16_but_for_softmax_and_normalisations():
    model, x = make(depth=1), noise(2, 12, 12)
    exact = apply(model, x)
    rounded = apply(model, x.astype(jnp.bfloat16))
    for name, value in rounded.items():
        assert value.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            np.asarray(value, np.float32), np.asarray(exact[name]), atol=0.05, rtol=0.05
        )
    text = str(jax.make_jaxpr(lambda x: model(x))(x.astype(jnp.bfloat16)))
    assert set(re.findall(r":(\w+)\[.*\] = (?:exp|sqrt|rsqrt)\b", text)) == {"f32"}
    assert set(re.findall(r":(\w+)\[.*\] = (?:dot_general|conv_general)", text)) == {"bf16"}


def test_only_kernels_are_decayed():
    params, _ = jax.eval_shape(
        lambda: training.init_variables(lambda rngs: ViT(size=12, depth=1, rngs=rngs), 0)
    )
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert names == {"kernel", "bias", "scale", "class_token", "positions"}


def test_wrong_vits_are_refused():
    with pytest.raises(ValueError, match=r"drop_path = 1\.0: give a rate from 0 to below 1"):
        make(drop_path=1.0)
    with pytest.raises(ValueError, match="a patch of 16 px is larger than the images of 12 px"):
        make(patch=16)
    with pytest.raises(ValueError, match="a patch of 2 px is larger than the images of 1 px"):
        make()(jnp.zeros((1, 4, 1, 3)))
