"""Machines that programs are compiled for without having them: TPU slices and NVIDIA GPUs.

libtpu and XLA's CUDA compiler make programs from a description of the machine. libtpu knows its
topologies by name. GPUs are described by a text proto, after openxla/xla's
xla/backends/gpu/target_config/specs.
"""

import dataclasses
import importlib.metadata
import os
from pathlib import Path
from typing import Any

import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

HERE = Path(__file__).resolve().parent
# The compilers, in directories of their own: jax starts every plugin that it finds, and would look
# for a TPU and a GPU in all else that runs.
PACKAGES = Path(os.environ.get("AHEAD_PACKAGES", HERE.parent / "build/ahead"))


def list_requirements(platform: str) -> list[str]:
    """What pip installs for the present jax: libtpu, or the CUDA plugin, ptxas and libdevice."""
    if platform == "tpu":
        asked = importlib.metadata.requires("jax") or []
        return [x.split(";")[0].strip() for x in asked if x.startswith("libtpu")]
    version = importlib.metadata.version("jax")
    names = ("jax-cuda12-plugin", "jax-cuda12-pjrt")
    return [*(f"{name}=={version}" for name in names), "nvidia-cuda-nvcc-cu12"]


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the maker prints of a chip.

    flops: bfloat16 FLOP/s; bandwidth: bytes/s of its memory; memory: bytes; clock: in Hz, to turn
    libtpu's cycles into seconds (0 for GPUs, for which nothing estimates cycles).
    """

    platform: str
    flops: float
    bandwidth: float
    memory: float
    clock: float = 0.0
    fields: tuple[tuple[str, Any], ...] = ()


# cloud.google.com/tpu/docs. A device of v5p is a chip (two cores as one). The clock is the peak
# over 2 x 128 x 128 (v6e: 256 x 256) FLOP of each of 4 (v5e), 8 (v5p), 4 (v6e) matrix units.
_V5E = Chip("tpu", 197e12, 819e9, 16e9, 1.5e9)
_V5P = Chip("tpu", 459e12, 2765e9, 95e9, 1.75e9)
_V6E = Chip("tpu", 918e12, 1640e9, 32e9, 1.75e9)
# nvidia.com: SXM. FLOP/s are of dense products.
_H100 = Chip(
    "cuda", 989e12, 3352e9, 80e9,
    fields=(
        ("name", "NVIDIA H100 80GB HBM3"), ("cores", 132), ("fpus", 128), ("clock", 1.98),
        ("bandwidth", 3352320000000), ("l2", 52428800), ("memory", 84942979072),
        ("shared", 232448), ("shared_core", 233472), ("major", 9), ("feature", "ACCELERATED"),
        ("capability", "9.0a"),
    ),
)  # fmt: skip
_A100 = Chip(
    "cuda", 312e12, 2039e9, 80e9,
    fields=(
        ("name", "NVIDIA A100-SXM4-80GB"), ("cores", 108), ("fpus", 64), ("clock", 1.41),
        ("bandwidth", 2039000000000), ("l2", 41943040), ("memory", 84974239744),
        ("shared", 166912), ("shared_core", 167936), ("major", 8), ("feature", ""),
        ("capability", "8.0"),
    ),
)  # fmt: skip
# name: (chip, topology of the compiler, number of chips).
TARGETS = {
    "v5e:2x4": (_V5E, "v5e:2x4", 8),
    "v5e:8x8": (_V5E, "v5e:8x8", 64),
    "v6e:8x8": (_V6E, "v6e:8x8", 64),
    "v5p:4x4x4": (_V5P, "v5p:4x4x4", 64),
    "h100x1": (_H100, "1x1x1", 1),
    "h100x8": (_H100, "1x1x8", 8),
    "a100x1": (_A100, "1x1x1", 1),
    "a100x8": (_A100, "1x1x8", 8),
}


def describe_environment(name: str, dump: Path) -> dict[str, str]:
    """The variables that a process needs to compile for a target; PTX goes to `dump`."""
    chip, _, _ = TARGETS[name]
    directory = PACKAGES / chip.platform
    paths = [str(directory), os.environ.get("PYTHONPATH", "")]
    found = {
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    if chip.platform == "tpu":
        # libtpu asks its machine what it is, and locks it: there is none.
        return found | {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-64",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_WORKER_ID": "0",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
    nvcc = directory / "nvidia/cuda_nvcc"
    flags = f"--xla_gpu_cuda_data_dir={nvcc} --xla_dump_to={dump} --xla_dump_hlo_as_text"
    # From 0.12 on, PTX is dumped only for emitters that this flag names; 0.10 does not know it.
    if not importlib.metadata.version("jaxlib").startswith(("0.10.", "0.11.")):
        flags += " --xla_dump_emitter_re=.*"
    return found | {
        "PATH": f"{nvcc / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
    }


def make_mesh(name: str) -> Mesh:
    """The mesh of all chips of a target, which only compilers know."""
    chip, topology, count = TARGETS[name]
    options = {} if chip.platform == "tpu" else {"target_config": _describe_gpu(chip)}
    given = {"topology_name": topology} if chip.platform == "tpu" else {"topology": topology}
    found = topologies.get_topology_desc(platform=chip.platform, **given, **options)
    devices = np.array(found.devices)
    if len(devices) != count:
        raise ValueError(
            f"{name} has {len(devices)} devices, not {count}: correct ahead_targets.py"
        )
    return Mesh(devices, ("data",), axis_types=(AxisType.Auto,))


def _describe_gpu(chip: Chip) -> str:
    """A GpuTargetConfigProto as text."""
    known = dict(chip.fields)
    feature = known["feature"] and f"feature_extension: {known['feature']}_FEATURES"
    return f"""gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {known["shared_core"]}
  shared_memory_per_block_optin: {known["shared"]}
  threads_per_core_limit: 2048
  core_count: {known["cores"]}
  fpus_per_core: {known["fpus"]}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {known["bandwidth"]}
  l2_cache_size: {known["l2"]}
  clock_rate_ghz: {known["clock"]}
  device_memory_size: {known["memory"]}
  cuda_compute_capability {{ major: {known["major"]} {feature} }}
  device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability {known["capability"]}"
  device_address_bits: 64
  pcie_bandwidth: 34359738368
  ecc_enabled: true
  name: "{known["name"]}"
  driver_version: "13.0.0"
  runtime_version: "12.9.0"
  compile_time_toolkit_version: "12.9.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{known["name"]}"
"""
