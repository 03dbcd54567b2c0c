"""What devices say of their memory."""

import types

import jax
import pytest

from kt_jax.machine import memory


def make_device(stats):
    return types.SimpleNamespace(memory_stats=lambda: stats)


def test_the_peak_is_that_of_the_fullest_device(monkeypatch):
    devices = [make_device({"peak_bytes_in_use": peak, "bytes_in_use": 9}) for peak in (3, 7, 5)]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory.find_peak() == 7


def test_a_cpu_has_no_peak():
    assert memory.find_peak() == 0


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError])
def test_a_device_that_cannot_say_says_nothing(error):
    def fail():
        raise error

    assert memory.read(types.SimpleNamespace(memory_stats=fail)) == {}
    assert memory.read(make_device(None)) == {}
