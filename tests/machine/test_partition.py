"""Batches on their way to the devices."""

import os

import jax
import numpy as np

from kt_jax.machine import partition


def test_batches_are_sent_ahead_and_in_order():
    taken = []

    def batches():
        for number in range(5):
            taken.append(number)
            yield {"image": np.full((4, 2), number, np.uint8)}

    arriving = partition.put_ahead(batches(), partition.make_mesh(), ahead=2)
    first = next(arriving)["image"]
    assert taken == [0, 1, 2]
    assert len(first.sharding.device_set) == jax.device_count() == 4
    assert [int(batch["image"][3, 1]) for batch in [{"image": first}, *arriving]] == [0, 1, 2, 3, 4]


def test_flags_that_come_too_late_are_warned_of(monkeypatch, caplog):
    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "--yours")
    partition.configure_xla()
    assert "JAX had started before kt_jax could set XLA_FLAGS" in caplog.text
    assert os.environ["XLA_FLAGS"] == "--yours"
