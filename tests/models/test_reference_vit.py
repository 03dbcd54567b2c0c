"""ViT against torchvision's VisionTransformer: the same mathematics, written apart from ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torchvision.models import vision_transformer

from kt_jax import models, training

pytestmark = pytest.mark.slow


def make_twin(*, size, patch, heads, depth):
    """With random weights, all of which matter, and without a head."""
    twin = vision_transformer.VisionTransformer(
        image_size=size,
        patch_size=patch,
        num_layers=depth,
        num_heads=heads,
        hidden_dim=64 * heads,
        mlp_dim=256 * heads,
    )
    twin.heads = torch.nn.Identity()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, tensor in twin.named_parameters():
            drawn = rng.normal(size=tuple(tensor.shape))
            if tensor.ndim in (2, 4):  # linear layers and the convolution
                drawn *= 1.5 / np.sqrt(tensor[0].numel())
            elif "ln" in name and name.endswith("weight"):
                drawn = 1 + 0.3 * drawn
            else:
                drawn *= 0.3
            if not name.startswith("encoder.l"):
                drawn *= 0.05  # embeddings so small that the epsilon of a norm matters
            tensor.copy_(torch.from_numpy(drawn))
    return twin


def as_ours(tensors, depth):
    """Parameters of the twin, or their gradients, by name, as our nested dict."""

    def linear(name):
        return {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}

    def norm(name):
        return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}

    def block(name):
        qkv = f"{name}.self_attention.in_proj"
        return {
            "norm1": norm(f"{name}.ln_1"),
            "qkv": {"kernel": tensors[f"{qkv}_weight"].T, "bias": tensors[f"{qkv}_bias"]},
            "projection": linear(f"{name}.self_attention.out_proj"),
            "norm2": norm(f"{name}.ln_2"),
            "fc1": linear(f"{name}.mlp.0"),
            "fc2": linear(f"{name}.mlp.3"),
        }

    ours = {
        "patches": {
            "kernel": tensors["conv_proj.weight"].permute(2, 3, 1, 0),
            "bias": tensors["conv_proj.bias"],
        },
        "class_token": tensors["class_token"][0],
        "positions": tensors["encoder.pos_embedding"][0],
        "blocks": {n: block(f"encoder.layers.encoder_layer_{n}") for n in range(depth)},
        "norm": norm("encoder.ln"),
    }
    return jax.tree.map(lambda x: jnp.asarray(x.detach().numpy()), ours)


def keep_activations(twin):
    """A dict that each call of the twin fills, by our names."""
    made = {}

    def keep(name):
        def hook(module, given, output):
            side = twin.image_size // twin.patch_size
            maps = output.detach()[:, 1:].reshape(len(output), side, side, -1)
            made[name] = maps.numpy().copy()

        return hook

    twin.encoder.dropout.register_forward_hook(keep("embedding"))
    for number, layer in enumerate(twin.encoder.layers, start=1):
        layer.register_forward_hook(keep(f"block{number}"))
    return made


def assert_close(found, expected, name):
    assert found.shape == expected.shape, name
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max(), name


def draw_images(count, *sides):
    return np.random.default_rng(1).normal(size=(count, *sides, 3)).astype(np.float32)


def first(images):
    """As torch has them: channels first."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def make_apply(name, *, size, depth, mode):
    """(parameters, images) -> activations, whose order is that of the layers."""
    graphdef = training.structure(
        lambda rngs: models.make_backbone(name, size=size, depth=depth, rngs=rngs),
        training=mode == "training",
    )
    key = jax.random.key(0) if mode == "training" else None
    return lambda params, x: training.bind(graphdef, params, {})(x, key)


@pytest.mark.parametrize("mode", ["evaluation", "training"])
@pytest.mark.parametrize(
    ("name", "heads", "size", "patch", "depth"), [("vit_ti", 3, 24, 3, 12), ("vit_s", 6, 48, 6, 2)]
)
def test_activations_and_gradients_are_torchs(name, heads, size, patch, depth, mode):
    twin = make_twin(size=size, patch=patch, heads=heads, depth=depth).train(mode == "training")
    made, images = keep_activations(twin), draw_images(2, size, size)
    output = twin(first(images))
    factors = np.random.default_rng(2).normal(size=tuple(output.shape)).astype(np.float32)
    (output * torch.from_numpy(factors)).sum().backward()
    expected = {**made, "class_token": output.detach().numpy()}
    assert len(expected) == depth + 2

    apply = make_apply(name, size=size, depth=depth, mode=mode)

    def loss(params, x):
        activations = apply(params, x)
        assert list(activations) == list(expected)  # JAX sorts a dict that leaves a program
        return (activations["class_token"] * factors).sum(), activations

    parameters = dict(twin.named_parameters())
    gradients, activations = jax.jit(jax.grad(loss, has_aux=True))(
        as_ours(parameters, depth), jnp.asarray(images)
    )
    for layer, value in expected.items():
        assert_close(np.asarray(activations[layer]), value, layer)
    expected_gradients = as_ours({each: x.grad for each, x in parameters.items()}, depth)
    jax.tree_util.tree_map_with_path(
        lambda path, a, b: assert_close(np.asarray(a), np.asarray(b), jax.tree_util.keystr(path)),
        gradients,
        expected_gradients,
    )


def resize(positions, side, rows, columns):
    """Position embeddings of the twin for another grid, as timm resizes them."""
    token, grid = positions[:, :1], positions[:, 1:]
    grid = torch.nn.functional.interpolate(
        grid.reshape(1, side, side, -1).permute(0, 3, 1, 2),
        size=(rows, columns),
        mode="bicubic",
        antialias=True,
    )
    return torch.cat([token, grid.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)], 1)


@pytest.mark.parametrize("size", [18, 32, 50])
def test_images_of_another_size_are_torchs(size):
    small = make_twin(size=24, patch=3, heads=3, depth=2)
    side = size // 3
    large = make_twin(size=3 * side, patch=3, heads=3, depth=2)
    tensors = dict(small.named_parameters())
    positions = resize(tensors["encoder.pos_embedding"], 8, side, side)
    large.load_state_dict({**tensors, "encoder.pos_embedding": positions})
    made, images = keep_activations(large), draw_images(2, size, size)
    # Torchvision refuses a rest, which a convolution drops.
    output = large.eval()(first(images[:, : 3 * side, : 3 * side]))
    apply = make_apply("vit_ti", size=24, depth=2, mode="evaluation")
    activations = jax.jit(apply)(as_ours(tensors, 2), jnp.asarray(images))
    for layer, value in {**made, "class_token": output.detach().numpy()}.items():
        assert_close(np.asarray(activations[layer]), value, layer)


def test_position_embeddings_of_oblong_images_are_torchs():
    model = nnx.jit(lambda: models.make_backbone("vit_ti", size=24, depth=1, rngs=nnx.Rngs(0)))()
    model.patches.bias[...] = jnp.zeros_like(model.patches.bias[...])
    found = nnx.jit(lambda model, x: model(x)["embedding"])(model, jnp.zeros((1, 17, 34, 3)))
    positions = torch.from_numpy(np.array(model.positions[...]))[None]
    expected = resize(positions, 8, 5, 11)[:, 1:].reshape(found.shape)
    assert_close(np.asarray(found), expected.numpy(), "embedding")
