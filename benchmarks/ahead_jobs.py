"""Compiles one program for one target, in a process of its own: see ahead.py."""

import re
import time
from pathlib import Path
from typing import Any

import ahead_hlo
import ahead_programs
import ahead_targets
import harness
import jax

from kt_jax.machine import partition

# Elementwise passes move their bytes at this share of the bandwidth, by libtpu's estimate (of
# 2,416,768 cycles for bf16[504,64,64,64] on v5e).
_REACHED = 0.4
_GPU_OPTIONS = {"xla_gpu_autotune_level": "0"}  # there is no GPU to try on


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """What the compiled program says; {"error": its first line} if it does not compile."""
    target, program, keep = job["target"], job["program"], job.get("keep")
    chip, _, _ = ahead_targets.TARGETS[target]
    partition.configure_xla()
    mesh = ahead_targets.make_mesh(target)
    lowered = ahead_programs.PROGRAMS[program](mesh).lower()
    begun = time.perf_counter()
    try:
        compiled = lowered.compile(_GPU_OPTIONS if chip.platform == "cuda" else None)
    except jax.errors.JaxRuntimeError as error:
        return {"error": str(error).splitlines()[0][:300]}
    seconds = time.perf_counter() - begun
    text = compiled.as_text()
    if keep:
        name = re.sub(r"\W", "-", f"{program}-{target}")
        Path(keep).mkdir(parents=True, exist_ok=True)
        (Path(keep) / f"{name}.hlo").write_text(text)
    memory = compiled.memory_analysis()
    largest = ahead_hlo.largest_argument(text)
    found = {
        "seconds": round(seconds, 1),
        "chips": mesh.size,
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "peak": memory.peak_memory_in_bytes,
        "flops": ahead_programs.count_flops(program, mesh),
        "collectives": ahead_hlo.list_collectives(text),
        "loops": ahead_hlo.list_loops(text),
        # Half of the largest argument: a block of float32 rows, or all of it in bfloat16.
        "copies": ahead_hlo.list_copies(text, max(largest // 2, 1 << 20)),
    }
    if chip.platform == "tpu":
        costs = compiled.cost_analysis() or {}
        found["hbm"] = costs.get("bytes accessed", 0)
        rate = _REACHED * chip.bandwidth / chip.clock
        found["cycles"] = ahead_hlo.sum_cycles(text, rate)
        found["least_cycles"] = ahead_hlo.sum_cycles(text, rate, least=True)["total"]
        found["top"] = ahead_hlo.top_operations(text, rate)
    else:
        dumped = Path(job["dump"]).glob("*.ptx")
        found["atomics"] = ahead_hlo.list_atomics("".join(x.read_text() for x in dumped))
    return found


if __name__ == "__main__":
    harness.answer(run_job)
