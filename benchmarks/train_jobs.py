"""What train.py measures, each in a process of its own."""

import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CORES = 2
PICTURES = {"JigsawNet": 9, "AlexNet": 1, "ResNet-18": 1, "ViT-Ti": 1}  # of an example
STUDENTS = {"AlexNet": ("alexnet", 227), "ResNet-18": ("resnet18", 224), "ViT-Ti": ("vit_ti", 224)}
CLASSES = 701
SECONDS = 15.0
LOOP_STEPS = 40
LOOP_TURNS = 5


def repeat(step: Callable[[], None]) -> float:
    """Seconds of a step, once it runs steadily."""
    step()
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 3:
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def make_batch(network: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised pictures as the network takes them, channels last, and labels."""
    rng = np.random.default_rng(0)
    if network == "JigsawNet":
        shape = (count, 9, 64, 64, 3)
    else:
        _, side = STUDENTS[network]
        shape = (count, side, side, 3)
    return rng.standard_normal(shape, np.float32), rng.integers(0, CLASSES, count)


def run_kt_jax(network: str, count: int, precision: str) -> dict[str, Any]:
    """One jitted step of `training.make_step`."""
    import jax

    from kt_jax import models, training
    from kt_jax.machine import partition
    from kt_jax.training import optimizers

    partition.configure_xla()

    def make_model(rngs: Any) -> Any:
        if network == "JigsawNet":
            backbone = models.make_backbone("vgg", size=64, batch_norm=True, rngs=rngs)
            return models.JigsawNet(backbone, size=64, classes=CLASSES, batch_norm=True, rngs=rngs)
        name, side = STUDENTS[network]
        backbone = models.make_backbone(name, size=side, rngs=rngs)
        return models.Classifier(backbone, size=side, classes=CLASSES, rngs=rngs)

    optimizer = optimizers.make_optimizer(optimizers.Optimizer(), steps=1000, batch_size=count)
    mesh = partition.make_mesh()
    state = training.init_state(make_model, optimizer, seed=0, mesh=mesh)
    pictures, labels = make_batch(network, count)
    batch = partition.put_batch({"image": pictures, "label": labels.astype(np.int32)}, mesh)
    step_fn = training.make_step(
        make_model,
        lambda _, batch: (batch["image"], batch["label"]),
        optimizer,
        key=jax.random.key(0),
        precision=precision,
    )
    begun = time.perf_counter()
    compiled = jax.jit(step_fn, donate_argnums=0).lower(state, batch).compile()
    compiling = time.perf_counter() - begun
    at = [state]

    def step() -> None:
        at[0], metrics = compiled(at[0], batch)
        jax.block_until_ready((at[0], metrics))

    seconds = repeat(step)
    used = jax.devices()[0].memory_stats()  # None on CPUs
    return {
        "count": count,
        "seconds": seconds,
        "compile": compiling,
        "flops": (compiled.cost_analysis() or {})["flops"],
        "memory": used["peak_bytes_in_use"] if used else harness.peak_rss(),
    }


def make_torch_model(network: str, torch: Any) -> Any:
    """The same networks, layer by layer."""
    nn = torch.nn
    if network in ("ResNet-18", "ViT-Ti"):
        models = importlib.import_module("torchvision").models
        if network == "ResNet-18":
            return models.resnet18(num_classes=CLASSES)
        return models.VisionTransformer(
            image_size=224, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192,
            mlp_dim=768, num_classes=CLASSES,
        )  # fmt: skip

    def dense(inputs: int, outputs: int, *, norm: bool) -> list[Any]:
        norms = [nn.BatchNorm1d(outputs)] if norm else []
        return [nn.Linear(inputs, outputs), *norms, nn.ReLU(inplace=True), nn.Dropout()]

    if network == "AlexNet":
        layers = [
            nn.Conv2d(3, 96, 11, 4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.LocalResponseNorm(5),
            nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True), nn.LocalResponseNorm(5),
            nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, ceil_mode=True), nn.Flatten(),
            *dense(9216, 4096, norm=False), *dense(4096, 4096, norm=False),
            nn.Linear(4096, CLASSES),
        ]  # fmt: skip
        return nn.Sequential(*layers)
    layers, inputs = [], 3
    for outputs, depth in zip((64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strict=True):
        for _ in range(depth):
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    tower = nn.Sequential(*layers, nn.Flatten(), *dense(2048, 1024, norm=True))
    head = nn.Sequential(*dense(9 * 1024, 4096, norm=True), nn.Linear(4096, CLASSES))

    class JigsawNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.head = tower, head

        def forward(self, tiles: Any) -> Any:
            return self.head(self.tower(tiles).reshape(-1, 9 * 1024))

    return JigsawNet()


def run_torch(network: str, count: int, precision: str, system: str, device: str) -> dict[str, Any]:
    """Forward, backward, clip, update."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(CORES)
    torch.manual_seed(0)
    model = make_torch_model(network, torch).to(device).train()
    pictures, labels = make_batch(network, count)
    channels_first = np.ascontiguousarray(
        np.moveaxis(pictures.reshape(-1, *pictures.shape[-3:]), -1, 1)
    )
    shown = torch.from_numpy(channels_first).to(device)
    targets = torch.from_numpy(labels).to(device)
    if "channels_last" in system:
        model = model.to(memory_format=torch.channels_last)
        shown = shown.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True
    )
    called = torch.compile(model) if "compiled" in system else model
    lowered = torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")

    def step() -> None:
        optimizer.zero_grad()
        with lowered:
            loss = torch.nn.functional.cross_entropy(called(shown), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    begun = time.perf_counter()
    step()
    first = time.perf_counter() - begun
    seconds = repeat(step)
    on_gpu = device == "cuda"
    memory = torch.cuda.max_memory_allocated() if on_gpu else harness.peak_rss()
    return {"seconds": seconds, "compile": max(first - seconds, 0.0), "memory": memory}


def run_gemm(side: int, precision: str) -> dict[str, Any]:
    """The machine's matrix product, in FLOP/s: what a step is measured by."""
    import jax
    import jax.numpy as jnp

    from kt_jax.machine import partition

    partition.configure_xla()
    x = jnp.ones((side, side), precision)
    product = jax.jit(jnp.dot)
    seconds = repeat(lambda: product(x, x).block_until_ready())
    return {"flops": 2 * side**3 / seconds, "device": jax.devices()[0].device_kind}


class Nowhere:
    """Keeps no checkpoint."""

    def restore(self, like: Any) -> None:
        """There is none."""

    def save(self, step: int, state: Any) -> None:
        """Forgets it."""

    def wait(self) -> None:
        """Returns at once."""


def run_loop(*, cache: str | None) -> dict[str, Any]:
    """Quickstart's teacher: the bare jitted step, and `training.fit` around it, with log and views.

    With a compilation cache, only the first step.
    """
    import jax
    import jax.numpy as jnp

    from kt_jax import config as configs
    from kt_jax import training
    from kt_jax.machine import partition, signals
    from kt_jax.models import views
    from kt_jax.pretext import puzzles
    from kt_jax.runs import files
    from kt_jax.runs.graph import make_graph
    from kt_jax.stages import pretext
    from kt_jax.training import logs, optimizers

    partition.configure_xla()
    jax.config.update("jax_compilation_cache_dir", cache)
    config = configs.load_config(str(ROOT / "configs/quickstart.py"))
    options = make_graph(files.to_plain(config))["pretext"].options
    chosen, rules = pretext.make_permutation_set(options, 0), options.puzzles
    optimizer = optimizers.make_optimizer(
        options.optimizer, steps=10**6, batch_size=options.batch_size
    )
    mesh = partition.make_mesh()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (options.batch_size, 48, 48, 3), np.uint8)

    def make_examples(key: Any, batch: Any) -> tuple[Any, Any]:
        made = puzzles.make_puzzles(key, batch["image"], jnp.asarray(chosen), rules)
        return views.standardise(made.tiles), made.label

    def make_batches(_: int) -> Iterator[Any]:
        while True:
            yield partition.put_batch({"image": pixels}, mesh)

    make_model = pretext.make_network(options)
    step_fn = training.make_step(make_model, make_examples, optimizer, key=jax.random.key(0))

    def make_state() -> training.TrainState:
        return training.init_state(make_model, optimizer, seed=0, mesh=mesh)

    def run_fit(steps: int) -> float:
        with tempfile.TemporaryDirectory() as place, signals.Notice() as notice:
            log = logs.StageLog(
                Path(place), stage="loop", steps=steps, images_per_step=options.batch_size
            )
            fresh = jax.block_until_ready(make_state())
            begun = time.perf_counter()
            state = training.fit(
                fresh, step_fn, make_batches, steps=steps, checkpoints=Nowhere(), log=log,
                notice=notice, log_every=20, checkpoint_every=10**6,
            )  # fmt: skip
            jax.block_until_ready(state)
            seconds = time.perf_counter() - begun
            log.close()
        return seconds / steps

    def run_bare(steps: int) -> float:
        state, batches = jax.block_until_ready(make_state()), make_batches(0)
        begun = time.perf_counter()
        for _ in range(steps):
            state, _ = step_fn(state, next(batches))
        jax.block_until_ready(state)
        return (time.perf_counter() - begun) / steps

    state, batches = make_state(), make_batches(0)
    begun = time.perf_counter()
    jax.block_until_ready(step_fn(state, next(batches)))
    if cache is not None:
        return {"first": time.perf_counter() - begun}
    run_fit(2)
    times = [(run_bare(LOOP_STEPS), run_fit(LOOP_STEPS)) for _ in range(LOOP_TURNS)]
    bare, fit = zip(*times, strict=True)
    return {"bare": statistics.median(bare), "fit": statistics.median(fit)}


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """One measurement."""
    if job["system"] == "gemm":
        return run_gemm(job["side"], job["precision"])
    if job["system"] in ("loop", "first"):
        return run_loop(cache=job.get("cache"))
    work = (job["network"], job["count"], job["precision"])
    if job["system"] == "kt_jax":
        return run_kt_jax(*work)
    return run_torch(*work, job["system"], job["platform"])


if __name__ == "__main__":
    harness.answer(run_job)
