"""Batches on their way to the devices."""

import os
from importlib import metadata

import jax
import numpy as np
import pytest

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
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
    monkeypatch.setattr(partition.metadata, "version", lambda _: "0.0.42")
    partition.configure_xla()
    assert "JAX had started before kt_jax could set XLA_FLAGS" in caplog.text
    assert os.environ["XLA_FLAGS"] == "--yours"
    assert os.environ["LIBTPU_INIT_ARGS"] == ""


OURS = (
    "--xla_jf_crs_combiner_threshold_in_bytes=4000000",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true",
    "--xla_enable_async_all_reduce=true",
)


@pytest.mark.parametrize(
    ("version", "given", "added"),
    [
        ("0.0.42.1", "", OURS),
        ("0.0.50", "--xla_yours=1", OURS),
        ("0.0.50", "--xla_enable_async_all_reduce=false", OURS[:2]),
        ("0.0.50", "--noxla_enable_async_all_reduce", OURS[:2]),
        ("0.0.41", "--xla_yours=1", ()),
        ("0.0.500", "", ()),
        ("0.1.dev20260801+nightly", "", ()),
        (None, "", ()),
    ],
)
def test_tpus_sum_large_gradients_while_they_compute(version, given, added, monkeypatch):
    """With a libtpu that knows the flags; one that does not would end the process."""

    def find(name):
        if name == "libtpu" and version:
            return version
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(partition.metadata, "version", find)
    monkeypatch.setattr(partition, "_has_begun", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", given)
    partition.configure_xla()
    assert os.environ["LIBTPU_INIT_ARGS"].split() == [*given.split(), *added]


def test_flags_of_tpus_that_come_too_late_are_told(monkeypatch, caplog):
    jax.devices()
    yours = "--xla_enable_async_all_reduce=false"
    monkeypatch.setattr(partition.metadata, "version", {"libtpu": "0.0.42"}.__getitem__)
    monkeypatch.setattr(partition.jax, "default_backend", lambda: "tpu")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", yours)
    partition.configure_xla()
    assert os.environ["LIBTPU_INIT_ARGS"] == yours
    wanted = " ".join([yours, *OURS[:2]])
    assert f"call kt_jax first or set LIBTPU_INIT_ARGS='{wanted}'" in caplog.text
