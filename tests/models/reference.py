"""Compares a network with its twin in PyTorch: the same weights, activations and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from kt_jax.models import layers

TOLERANCE = 1e-4  # of the largest value of an array
# Each program runs once: optimising it takes longer than running it as it is.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def compare(net, twin, places, *, size, batch=4, tolerance=TOLERANCE, slack=1e-3):
    """Asserts that a network is its twin, with random weights and on random images.

    Compares all activations in evaluation and in training mode, the running averages after one
    step, and the gradients of all kernels for a random sum of the outputs.

    places: the modules of the twin that give the activations, by our names and in our order.
    tolerance: of activations in training mode.
    slack: of the length of gradients: a ReLU of nearly 0 is another one in float32.
    """
    twin.double()
    generator = np.random.default_rng(0)
    pairs = list(zip(_leaves(net), _leaves_of_twin(twin), strict=True))
    for ours, theirs in pairs:
        _draw(theirs, generator)
        _copy(theirs, ours)
    images = generator.normal(size=(batch, size, size, 3)).astype(np.float32)
    activations = _keep_activations(twin, places)

    net.eval()
    twin.eval()
    with torch.no_grad():
        output = _call(twin, images)
        weights = generator.normal(size=tuple(output.shape)).astype(np.float32)
    made, _ = _run(net, images, weights)
    _assert_same_activations(made, activations, places, "evaluation", TOLERANCE)

    net.train()
    twin.train()
    norms = [pair for pair in pairs if isinstance(pair[0], layers.BatchNorm)]
    before = [theirs.running_var.clone() for _, theirs in norms]
    counts = _count_values([theirs for _, theirs in norms])
    (_call(twin, images) * torch.from_numpy(weights)).sum().backward()
    made, gradients = _run(net, images, weights)
    _assert_same_activations(made, activations, places, "training", tolerance)

    for (ours, theirs), old in zip(norms, before, strict=True):
        _assert_close(ours.mean[...], theirs.running_mean, "running mean")
        # PyTorch multiplies the variance of n values by n / (n - 1) before it averages.
        share = 1 - 1 / counts[theirs]
        variance = share * theirs.running_var + (1 - share) * (1 - theirs.momentum) * old
        _assert_close(ours.var[...], variance, "running variance")

    nnx.update(net, gradients)  # in place of the parameters
    for ours, theirs in pairs:
        if not isinstance(ours, layers.BatchNorm):
            found, expected = np.asarray(ours.kernel[...]), _kernel(theirs.weight.grad).numpy()
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            assert error < slack, f"gradient of a kernel {ours.kernel.shape}: {error:.1e}"


def _leaves(module):
    """Our layers with parameters, in the order in which they were made."""
    if isinstance(module, layers.Conv | layers.DepthwiseConv | layers.BatchNorm):
        yield module
    elif isinstance(module, nnx.Module):
        for each in module if isinstance(module, nnx.List) else vars(module).values():
            yield from _leaves(each)


def _leaves_of_twin(twin):
    kinds = torch.nn.Conv2d | torch.nn.BatchNorm2d
    return [module for module in twin.modules() if isinstance(module, kinds)]


def _draw(theirs, generator):
    """Random values, and not those that a layer begins with: all must matter."""

    def normal(tensor, deviation):
        tensor.copy_(torch.from_numpy(generator.normal(0, deviation, tuple(tensor.shape))))

    def positive(tensor):
        tensor.copy_(torch.from_numpy(generator.uniform(0.5, 1.5, tuple(tensor.shape))))

    with torch.no_grad():
        if isinstance(theirs, torch.nn.BatchNorm2d):
            theirs.momentum = 0.1  # the share of the new values; ours is that of the old
            positive(theirs.weight)
            normal(theirs.running_mean, 0.3)
            positive(theirs.running_var)
        else:
            normal(theirs.weight, np.sqrt(2 / theirs.weight[0].numel()))
        if theirs.bias is not None:
            normal(theirs.bias, 0.3)


def _copy(theirs, ours):
    if isinstance(ours, layers.BatchNorm):
        assert ours.epsilon == theirs.eps
        _set(ours.scale, theirs.weight)
        _set(ours.mean, theirs.running_mean)
        _set(ours.var, theirs.running_var)
    else:
        _set(ours.kernel, _kernel(theirs.weight))
    if theirs.bias is not None:
        _set(ours.bias, theirs.bias)


def _set(variable, tensor):
    array = jnp.asarray(tensor.detach().numpy(), jnp.float32)
    assert variable.shape == array.shape
    variable[...] = array


def _kernel(tensor):
    """Ours are [height, width, inputs, outputs]."""
    return tensor.permute(2, 3, 1, 0)


def _call(twin, images):
    return twin(torch.from_numpy(images).double().permute(0, 3, 1, 2))


def _keep_activations(twin, places):
    """A dict that each call of the twin fills, with maps [n, h, w, c]."""
    activations = {}

    def keep(name):
        def hook(module, given, made):
            del module, given
            # A copy: what follows may work in place.
            activations[name] = made.detach().permute(0, 2, 3, 1).clone()

        return hook

    for name, module in places.items():
        module.register_forward_hook(keep(name))
    return activations


def _count_values(norms):
    """A dict that each call of the twin fills: how many values of a channel a norm averages."""
    counts = {}

    def hook(module, given, made):
        del given
        counts[module] = made[:, 0].numel()

    for norm in norms:
        norm.register_forward_hook(hook)
    return counts


def _run(net, images, weights):
    """The activations and the gradients; the network gets the running averages.

    weights: of the output, channels before places as the twin has it, in the sum that is
      differentiated.
    """
    graphdef, params, others = nnx.split(net, nnx.Param, ...)
    names = []

    def apply(params, others, images):
        model = nnx.merge(graphdef, params, others, copy=True)
        activations = model(images)
        names.extend(activations)
        output = activations[names[-1]]
        total = jnp.vdot(jnp.moveaxis(output, -1, 1).ravel(), weights.ravel())
        return total, (list(activations.values()), nnx.state(model, nnx.BatchStat))

    step = jax.jit(jax.grad(apply, has_aux=True), compiler_options=_QUICK)
    gradients, (activations, statistics) = step(params, others, images)
    nnx.update(net, statistics)
    return dict(zip(names, activations, strict=True)), gradients


def _assert_same_activations(made, expected, places, mode, tolerance):
    assert list(made) == list(places)
    for name, ours in made.items():
        theirs = expected[name]
        if ours.ndim == 2:
            assert theirs.shape[1:3] == (1, 1)
            theirs = theirs[:, 0, 0]
        _assert_close(ours, theirs, f"{name} in {mode}", tolerance)


def _assert_close(ours, theirs, name, tolerance=TOLERANCE):
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape, name
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error < tolerance, f"{name}: {error:.1e}"
