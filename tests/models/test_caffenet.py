"""The paper's AlexNet against its definition, Caffe's bvlc_reference_caffenet, in NumPy.

NumPy's side is [n, c, h, w] in float64, and its kernels are [outputs, inputs / groups, h, w].
"""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kt_jax.models.alexnet import AlexNet

# Side of the kernel (that of conv1 is an option), padding, groups.
LAYERS = ((None, 0, 1), (5, 2, 2), (3, 1, 1), (3, 1, 2), (3, 1, 2))


def convolve(x, kernel, bias, *, stride, padding, groups):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    side = kernel.shape[-1]
    rows, columns = ((size - side) // stride + 1 for size in x.shape[2:])
    parts = []
    for seen, own in zip(np.split(x, groups, 1), np.split(kernel, groups), strict=True):
        part = 0.0
        for i in range(side):
            for j in range(side):
                shifted = seen[:, :, i::stride, j::stride][:, :, :rows, :columns]
                part = part + np.tensordot(own[:, :, i, j], shifted, ([1], [1]))
        parts.append(part.swapaxes(0, 1))
    return np.concatenate(parts, 1) + bias[:, None, None]


def pool(x):
    """Maxima of 3 x 3 with stride 2; the last windows may reach beyond the map."""
    rows, columns = (int(np.ceil((size - 3) / 2)) + 1 for size in x.shape[2:])
    made = np.empty((*x.shape[:2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            made[:, :, i, j] = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((2, 3))
    return made


def normalise(x):
    """Over five neighbouring channels, b_c = a_c / (1 + 1e-4 / 5 sum_k a_k^2)^0.75."""
    made = np.empty_like(x)
    for c in range(x.shape[1]):
        squares = np.square(x[:, max(0, c - 2) : c + 3]).sum(1)
        made[:, c] = x[:, c] / (1 + 1e-4 / 5 * squares) ** 0.75
    return made


def forward(weights, images, *, stride):
    """All activations by name; the weights are a kernel and a bias a layer."""
    made, x = {}, 50.0 * images.astype(np.float64).transpose(0, 3, 1, 2)
    for number, ((kernel, bias), (_, padding, groups)) in enumerate(
        zip(weights, LAYERS, strict=True), start=1
    ):
        step = stride if number == 1 else 1
        x = convolve(x, kernel, bias, stride=step, padding=padding, groups=groups)
        x = made[f"conv{number}"] = np.maximum(x, 0)
        if number in (1, 2, 5):
            x = made[f"pool{number}"] = pool(x)
        if number in (1, 2):
            x = made[f"norm{number}"] = normalise(x)
    return made


def draw(channels, stem):
    """Weights and biases that all matter, in float64 and exact in float32."""
    rng = np.random.default_rng(0)
    weights = []
    for inputs, outputs, (side, _, groups) in zip((3, *channels), channels, LAYERS, strict=False):
        shape = (outputs, inputs // groups, side or stem, side or stem)
        kernel = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        drawn = kernel, 20 * rng.normal(size=outputs)
        weights.append(tuple(x.astype(np.float32).astype(np.float64) for x in drawn))
    return weights


def convolutions(model):
    """The convolutions of each layer, one a group."""
    return [getattr(layer.conv, "convs", [layer.conv]) for layer in model.layers]


def make_model(weights, *, size, stride):
    channels, stem = tuple(len(bias) for _, bias in weights), weights[0][0].shape[-1]
    model = nnx.jit(
        lambda: AlexNet(
            size=size, channels=channels, stem_kernel=stem, stem_stride=stride, rngs=nnx.Rngs(0)
        )
    )()
    for convs, (kernel, bias), (_, _, groups) in zip(
        convolutions(model), weights, LAYERS, strict=True
    ):
        parts = zip(convs, np.split(kernel, groups), np.split(bias, groups), strict=True)
        for conv, part, own in parts:
            part = part.transpose(2, 3, 1, 0)
            assert conv.kernel.shape == part.shape
            conv.kernel[...], conv.bias[...] = jnp.float32(part), jnp.float32(own)
    return model


def draw_images(count, size):
    return np.random.default_rng(1).normal(size=(count, size, size, 3)).astype(np.float32)


CHANNELS = (24, 64, 96, 96, 64)  # a quarter of the paper's


# Images of ImageNet, and the tiles of the authors' puzzles.
@pytest.mark.parametrize(("size", "count", "stride"), [(227, 1, 4), (64, 3, 2)])
def test_activations_are_caffenets(size, count, stride):
    weights, images = draw(CHANNELS, 11), draw_images(count, size)
    expected = forward(weights, images, stride=stride)
    model = make_model(weights, size=size, stride=stride)
    made = nnx.jit(lambda model, x: model(x))(model, jnp.asarray(images))
    assert set(made) == set(expected)
    assert expected["pool5"].shape == (count, 64, *((6, 6) if size == 227 else (3, 3)))
    for name, value in expected.items():
        error = np.abs(np.asarray(made[name]).transpose(0, 3, 1, 2) - value).max()
        assert error < 1e-5 * value.max(), name
        assert 0.2 < (value > 0).mean(), name  # not dead
    # The normalisations change more than the comparison may miss.
    assert np.abs(expected["norm1"] / np.maximum(expected["pool1"], 1e-9) - 1).max() > 0.5


def test_gradients_are_those_of_finite_differences():
    weights, images = draw((8, 12, 16, 16, 12), 11), draw_images(2, 64)
    model = make_model(weights, size=64, stride=2)
    rng = np.random.default_rng(2)
    factors = rng.normal(size=(2, 12, 3, 3))

    def loss(model, x):
        return (model(x)["pool5"] * jnp.float32(factors.transpose(0, 2, 3, 1))).sum()

    def reference_loss():
        return (forward(weights, images, stride=2)["pool5"] * factors).sum()

    # The model then has gradients for weights.
    nnx.update(model, nnx.jit(nnx.grad(loss))(model, jnp.asarray(images)))
    for layer in (0, 2, 4):
        convs, (values, _) = convolutions(model)[layer], weights[layer]
        found = np.concatenate([np.asarray(conv.kernel[...]) for conv in convs], -1)
        found = found.transpose(3, 2, 0, 1)
        step = 1e-6 * values.std()
        for place in zip(*(rng.integers(0, side, 5) for side in values.shape), strict=True):
            was = values[place]
            values[place] = was + step
            above = reference_loss()
            values[place] = was - step
            slope = (above - reference_loss()) / (2 * step)
            values[place] = was
            assert abs(found[place] - slope) < 1e-4 * np.abs(found).max()


def test_initial_values_are_caffenets():
    model = nnx.jit(lambda: AlexNet(size=64, channels=CHANNELS, rngs=nnx.Rngs(0)))()
    for convs, bias in zip(convolutions(model), (0, 1, 0, 1, 1), strict=True):
        for conv in convs:
            kernel = np.asarray(conv.kernel[...])
            assert kernel.std() == pytest.approx(0.01, rel=0.04)
            assert abs(kernel.mean()) < 4 * 0.01 / np.sqrt(kernel.size)
            assert (np.asarray(conv.bias[...]) == bias).all()
