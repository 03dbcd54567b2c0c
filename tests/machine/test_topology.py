"""The same global batches whatever reads them: devices, processes, workers, resuming elsewhere."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

STEPS = 6
SCRIPT = textwrap.dedent(
    """
    import hashlib
    import json
    import sys

    import jax
    import jax.numpy as jnp
    import numpy as np

    number, port, processes, first, last, out = map(json.loads, sys.argv[1:])
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, number)
    from kt_jax import data
    from kt_jax.machine import partition
    from kt_jax.models import views
    from kt_jax.pretext import permutations, puzzles

    mesh = partition.make_mesh()
    images = data.open_images("folder", path="photos", size=32)
    chosen = jnp.asarray(permutations.make_permutations(5, min_distance=3, seed=0))
    rules = puzzles.PuzzleRules(crop=30, tile=7, jitter=2, channel_shift=1, grey=0.5)
    def look(step, batch):
        key = jax.random.fold_in(jax.random.key(7), step)
        made = puzzles.make_puzzles(key, batch["image"], chosen, rules)
        crops = views.random_resized_crop(key, batch["image"], size=24, area=(0.3, 1.0))
        return batch["index"], made.label, made.tiles, crops

    look = jax.jit(look, out_shardings=partition.replicated(mesh))
    for workers in (0, 2):
        batches = data.train_batches(
            images, data.Shuffled(len(images), seed=3, group=puzzles.GROUP), 32,
            first_step=first, last_step=last,
            reading=data.Reading(
                workers=workers, threads=2,
                process_index=jax.process_index(), process_count=jax.process_count(),
            ),
        )
        shown = [
            [np.asarray(x) for x in look(step, batch)]
            for step, batch in enumerate(partition.put_ahead(batches, mesh), first)
        ]
        indices, labels, tiles, crops = (np.stack(part) for part in zip(*shown))
        digest = hashlib.sha256(tiles.tobytes()).hexdigest()
        np.savez(
            f"{out}-{number}-{workers}.npz",
            indices=indices, labels=labels, tiles=digest, crops=crops,
        )
    """
)


def look(at, of_users, processes, devices, steps=range(STEPS)):
    """What a run shows, with and without workers: indices, labels, hash of the tiles, crops."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    devices_of_cpu = {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **devices_of_cpu, **of_users}
    out = f"{processes}-{devices}-{steps.start}"
    arguments = [port, processes, steps.start, steps.stop, out]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *map(json.dumps, [number, *arguments])],
            cwd=at,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(processes)
    ]
    for run in runs:
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output
    return [
        dict(np.load(at / f"{out}-{number}-{workers}.npz"))
        for number in range(processes)
        for workers in (0, 2)
    ]


def same(seen, expected):
    np.testing.assert_array_equal(seen["indices"], expected["indices"])
    np.testing.assert_array_equal(seen["labels"], expected["labels"])
    # A resampling is a small matrix product, whose last bit depends on how many XLA batches.
    np.testing.assert_allclose(seen["crops"], expected["crops"], atol=1e-5)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, of_users):
    at = tmp_path_factory.mktemp("topology")
    (at / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(70):
        picture = Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8))
        picture.save(at / "photos" / f"{number:02d}.jpg")
    alone, with_workers = look(at, of_users, processes=1, devices=1)
    assert len({tuple(indices) for indices in alone["indices"]}) == STEPS
    assert alone["tiles"] == with_workers["tiles"]
    same(with_workers, alone)
    return at, alone


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 4), (2, 2)])
def test_any_topology_sees_the_same(expected, of_users, processes, devices):
    at, alone = expected
    for seen in look(at, of_users, processes, devices):
        assert seen["tiles"] == alone["tiles"]
        same(seen, alone)


@pytest.mark.slow
def test_a_run_of_two_processes_is_carried_on_by_one(expected, of_users):
    at, alone = expected
    tail = {name: rows[3:] for name, rows in alone.items() if name != "tiles"}
    for seen in look(at, of_users, processes=1, devices=1, steps=range(3, STEPS)):
        same(seen, tail)
