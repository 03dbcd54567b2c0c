"""benchmarks/ahead.py: what compilers of TPUs and GPUs say of the project's programs."""

import ahead
import ahead_hlo
import ahead_programs
import ahead_targets
import jax
import jax.numpy as jnp
import pytest

from kt_jax.kmeans import cluster_sums, comparing, device, rows
from kt_jax.machine import partition

PROGRAM = """\
HloModule jit_step

%body.1 (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %convolution.1 = f32[8,4]{1,0} convolution(%a, %b), metadata={op_name="jit(step)/while/body/dot_general"}, backend_config={"estimated_cycles":"100"}
  ROOT %tuple.1 = (s32[], f32[8,4]{1,0}) tuple(%i, %convolution.1)
}

%condition.1 (p: (s32[], f32[8,4])) -> pred[] {
  %constant.7 = s32[] constant(3)
  %p.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  %get-tuple-element.1 = s32[] get-tuple-element(%p.1), index=0
  ROOT %lt.1 = pred[] compare(%get-tuple-element.1, %constant.7), direction=LT
}

%async_collective_fusion.1 (p: bf16[2]) -> bf16[2] {
  ROOT %all-reduce.3 = bf16[2]{0} all-reduce(%p.2), channel_id=1, frontend_attributes={chain_id="0"}
}

%few.1 (p: f32[8,4]) -> f32[8,4] {
  ROOT %add.1 = f32[8,4]{1,0} add(%x, %y), metadata={op_name="jit(step)/cond/add"}, backend_config={"estimated_cycles":"5"}
}

%all.1 (p: f32[8,4]) -> f32[8,4] {
  ROOT %add.2 = f32[8,4]{1,0} add(%x, %y), metadata={op_name="jit(step)/cond/add"}, backend_config={"estimated_cycles":"50"}
}

ENTRY %main.1 (a: f32[8,4], b: bf16[2]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = bf16[2]{0} parameter(1)
  %while.1 = (s32[], f32[8,4]{1,0}) while(%tuple.2), condition=%condition.1, body=%body.1, metadata={op_name="jit(step)/while"}
  %conditional.1 = f32[8,4]{1,0} conditional(%i, %a, %a), branch_computations={%few.1, %all.1}
  %all-reduce.1 = (f32[8,4]{1,0}, bf16[2]{0}) all-reduce(%a, %b), replica_groups={}
  %select-and-scatter.1 = f32[8,4]{1,0} select-and-scatter(%a, %b, %zero), metadata={op_name="jit(step)/select_and_scatter"}
  %all-reduce.2 = bf16[2]{0} all-reduce(%b), channel_id=1
  %all-reduce.4 = bf16[2]{0} all-reduce(%b), channel_id=1, frontend_attributes={chain_id="0"}
  %all-reduce-start.1 = f32[2]{0} all-reduce-start(%a), backend_config={"is_sync":false}
  ROOT %copy.1 = f32[8,4]{0,1} copy(%a), backend_config={"estimated_cycles":"7"}
}
"""  # noqa: E501


def test_cycles_count_loops_and_one_branch():
    # The gradient of max pooling counts as its bytes: 128 written, 128 and 4 read.
    assert ahead_hlo.sum_cycles(PROGRAM, 2.0) == {
        "total": 487, "products": 300, "elementwise and other": 50, "conversions and copies": 7,
        "gathers and scatters": 130,
    }  # fmt: skip
    assert ahead_hlo.sum_cycles(PROGRAM, 2.0, least=True)["total"] == 442
    assert ahead_hlo.list_loops(PROGRAM) == [{"trips": 3, "operation": "jit(step)/while"}]


def test_collectives_and_copies_are_found():
    found = ahead_hlo.list_collectives(PROGRAM)
    assert [(x["dtype"], x["asynchronous"], x["bytes"]) for x in found] == [
        ("bf16", False, 4), ("bf16", True, 4), ("bf16+f32", False, 132), ("f32", True, 8),
    ]  # fmt: skip
    assert ahead_hlo.largest_argument(PROGRAM) == 128
    assert len(ahead_hlo.list_copies(PROGRAM, 64)) == 1
    assert ahead_hlo.list_copies(PROGRAM, 200) == []


def test_atomics_are_counted_by_kernel():
    text = ".visible .entry sum_1(\n red.global.add.f32 %f\n atom.global.cas.b32 %r\n"
    text += ".visible .entry plain(\n ret;\n"
    kinds = {"red.global.add.f32": 1, "atom.global.cas.b32": 1}
    assert ahead_hlo.list_atomics(text) == {"sum_1": kinds}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, "one-hot") for name in ahead.PROGRAMS if name not in ahead_programs.LARGE),
        # Only k-means' steps depend on the method.
        *((name, "two scatters") for name in ahead.PROGRAMS if name.startswith("kmeans_step")),
    ],
)
def test_every_program_lowers_for_every_platform(name, method, monkeypatch):
    platform = "tpu" if method == "one-hot" else "gpu"
    monkeypatch.setattr(device.Setting, "platform", platform)
    monkeypatch.setattr(cluster_sums, "update_method", lambda on: method)
    traced = ahead_programs.PROGRAMS[name](partition.make_mesh())
    for each in ("tpu", "cuda", "rocm"):
        assert traced.lower(lowering_platforms=(each,)).as_text()


@pytest.mark.parametrize(("platform", "apart"), [("tpu", True), ("cuda", False), ("cpu", False)])
def test_products_are_kept_apart_from_the_search_on_tpus(platform, apart):
    shapes = [jax.ShapeDtypeStruct((8, 16), jnp.float32)] * 2
    traced = jax.jit(lambda *each: comparing.products(*each, "bfloat16")).trace(*shapes)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("optimization_barrier" in text) == apart


def compile_one(target, program, directory):
    platform = ahead_targets.TARGETS[target][0].platform
    if not (ahead_targets.PACKAGES / platform).exists():
        pytest.skip(f"no compiler for {platform}: make ahead AHEAD_FLAGS=--programs= installs it")
    found = ahead.compile_one(target, program, str(directory))
    assert "error" not in found, found
    (path,) = directory.glob("*.hlo")
    return found, path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["h100x8", "a100x8"])
@pytest.mark.parametrize("program", ["kmeans_step", "kmeans_step_pruned"])
def test_sums_of_gpus_have_no_compare_and_swap(target, program, tmp_path):
    found, _ = compile_one(target, program, tmp_path)
    kinds = {kind for kernel in found["atomics"].values() for kind in kernel}
    assert not [kind for kind in kinds if "cas" in kind]
    assert found["collectives"] == []


@pytest.mark.slow
@pytest.mark.parametrize("program", ["teacher", "student", "student_accumulated", "features"])
def test_gpus_only_sum_gradients(program, tmp_path):
    found, _ = compile_one("h100x8", program, tmp_path)
    assert {each["kind"] for each in found["collectives"]} <= {"all-reduce"}
    assert not [loop for loop in found["loops"] if loop["trips"] >= 32]  # images of a chip


@pytest.mark.slow
@pytest.mark.parametrize("program", ["kmeans_step", "kmeans_step_pruned", "kmeans_label"])
def test_k_means_on_a_tpu_copies_no_block(program, tmp_path):
    found, text = compile_one("v5e:8x8", program, tmp_path)
    assert found["copies"] == []
    assert found["collectives"] == []
    n, k = ahead_programs.N, ahead_programs.K
    block_rows = ahead_hlo.largest_argument(text) // (4 * ahead_programs.D)
    shapes = {dims for _, dims in ahead_hlo.list_shapes(text)}
    assert not [dims for dims in shapes if sorted(dims)[-2:] == sorted((block_rows, k))]
    assert block_rows * 64 < 2 * n


@pytest.mark.parametrize(("n", "k"), [(10_007, 3), (1_281_167, 2_000)])
def test_the_blocks_of_a_tpu_are_whole_tiles(n, k, monkeypatch):
    as_on_a_tpu = {"cpu": rows._CHUNK_MULTIPLE["tpu"]}
    monkeypatch.setattr(rows, "_CHUNK_MULTIPLE", as_on_a_tpu)
    mesh = partition.make_mesh()
    block_rows, chunk = rows.choose_blocks((n, 100), k, mesh)
    assert chunk % 128 == 0
    assert block_rows % (chunk * mesh.size) == 0
