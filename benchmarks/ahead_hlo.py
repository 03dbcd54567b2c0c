"""What an optimised program says of itself: cycles, collectives, loops, copies, atomics."""

import collections
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4,
    "f32": 4, "u64": 8, "s64": 8, "f64": 8,
}  # fmt: skip
COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = ((?:\(.*?\)|\S+)) ([a-z][\w\-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shape: str
    kind: str  # such as fusion
    rest: str
    operation: str  # the JAX operation that it comes from, such as jit(step)/dot_general
    cycles: int  # libtpu's estimate; 0 where it has none
    operands: tuple[str, ...]  # their names


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations by name, and the name of the entry."""
    found: dict[str, list[Instruction]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        begun = _COMPUTATION.match(line)
        if begun and not line.startswith(" "):
            current = begun[2]
            found[current] = []
            entry = current if begun[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := _INSTRUCTION.match(line)):
            name, shape, kind, rest = match.groups()
            cycles = re.search(r'"estimated_cycles":"(-?\d+)"', rest)
            operation = re.search(r'op_name="([^"]*)"', rest)
            found[current].append(
                Instruction(
                    name, shape, kind, rest, operation[1] if operation else "",
                    int(cycles[1]) if cycles else 0,
                    tuple(re.findall(r"%([\w.\-]+)", rest.split(")")[0])),
                )
            )  # fmt: skip
    return found, entry


def scheduled(text: str, *, least: bool = False) -> Iterator[tuple[Instruction, int]]:
    """The instructions that run, and how often: bodies of loops as often as is known, else once.

    Of a conditional's branches only the one with the most cycles counts, or with the least.
    """
    computations, entry = parse(text)
    yield from _walk(computations, entry, 1, least)


def _walk(
    computations: dict[str, list[Instruction]], name: str, times: int, least: bool
) -> Iterator[tuple[Instruction, int]]:
    for each in computations.get(name, ()):
        yield each, times
        if each.kind == "while":
            (body,) = re.findall(r"body=%?([\w.\-]+)", each.rest)
            yield from _walk(computations, body, times * (trips(each, computations) or 1), least)
        elif each.kind == "call":
            yield from _walk(computations, _named(each.rest, "to_apply")[0], times, least)
        elif each.kind == "conditional":
            branches = [list(_walk(computations, x, times, least)) for x in _branches(each.rest)]
            choose = min if least else max
            yield from choose(branches, key=lambda x: sum(one.cycles * n for one, n in x))


def _branches(rest: str) -> list[str]:
    several = re.search(r"branch_computations=\{(.*?)\}", rest)
    if several:
        return re.findall(r"%?([\w.\-]+)", several[1])
    return _named(rest, "true_computation") + _named(rest, "false_computation")


def _named(rest: str, key: str) -> list[str]:
    return re.findall(rf"{key}=%?([\w.\-]+)", rest)


def trips(loop: Instruction, computations: dict[str, list[Instruction]]) -> int:
    """How often a loop runs; 0 if that is not known before."""
    known = re.search(r'known_trip_count[^0-9]*"?n?"?[^0-9]*(\d+)', loop.rest)
    if known:
        return int(known[1])
    # libtpu does not say it: the condition of a scan is that its number is below a constant.
    condition = {x.name: x for x in computations[_named(loop.rest, "condition")[0]]}
    last = list(condition.values())[-1]
    operands = [condition.get(x) for x in re.findall(r"%([\w.\-]+)", last.rest.split(")")[0])]
    kinds = [x.kind if x else "" for x in operands]
    if last.kind == "compare" and kinds == ["get-tuple-element", "constant"] and operands[1]:
        return int(operands[1].rest.split(")")[0])
    return 0


def size_of(shape: str) -> int:
    """Bytes of all arrays of a shape."""
    return sum(
        BYTES.get(dtype, 4) * int(np.prod([int(x) for x in dims.split(",") if x]))
        for dtype, dims in _SHAPE.findall(shape)
        if dtype in BYTES
    )


# How the page groups what libtpu estimates, by the last words of JAX's operation.
_GROUPS = (
    ("products", r"dot_general|conv_general_dilated|matmul"),
    ("reductions", r"reduce\w*|argm\w+|cumsum|sort|top_k"),
    ("gathers and scatters", r"gather|(select_and_)?scatter\w*|dynamic_\w*slice|take\w*"),
    ("conversions and copies", r"convert_element_type|copy|transpose|reshape|concatenate|pad"),
)


def sum_cycles(text: str, bytes_a_cycle: float, *, least: bool = False) -> dict[str, int]:
    """The cycles by group of JAX operations, in all in "total"; `least`: see `scheduled`.

    The gradient of max pooling (select-and-scatter) has no estimate: it counts as its bytes over
    `bytes_a_cycle`.
    """
    found: collections.Counter[str] = collections.Counter({"total": 0})
    for each, cycles in _estimate(text, bytes_a_cycle, least=least):
        found[_group(each)] += cycles
        found["total"] += cycles
    return dict(found.most_common())


def _estimate(
    text: str, bytes_a_cycle: float, *, least: bool = False
) -> Iterator[tuple[Instruction, int]]:
    """The instructions that take cycles, with the cycles of all times that each runs."""
    shapes = {x.name: x.shape for some in parse(text)[0].values() for x in some}
    for each, times in scheduled(text, least=least):
        cycles = each.cycles
        if each.kind == "select-and-scatter" and not cycles:
            moved = [each.shape, *(shapes.get(x, "") for x in each.operands)]
            cycles = round(sum(map(size_of, moved)) / bytes_a_cycle)
        if cycles:
            yield each, cycles * times


def _group(each: Instruction) -> str:
    last = each.operation.rsplit("/", 1)[-1]
    if each.kind in ("copy", "convert", "transpose"):
        return "conversions and copies"
    # A fusion has the name of its root; the matrix unit computes those with a convolution.
    if "convolution" in each.rest or each.kind in ("convolution", "dot"):
        return "products"
    for name, pattern in _GROUPS:
        if re.fullmatch(pattern, last):
            return name
    return "elementwise and other"


def top_operations(text: str, bytes_a_cycle: float, count: int = 12) -> list[tuple[str, int]]:
    """The JAX operations with most of the cycles of `sum_cycles`."""
    found: collections.Counter[str] = collections.Counter()
    for each, cycles in _estimate(text, bytes_a_cycle):
        found[f"{each.operation or each.kind} {each.shape[:60]}"] += cycles
    return found.most_common(count)


def list_collectives(text: str) -> list[dict[str, object]]:
    """The collectives by kind, dtypes and whether they are asynchronous, with their bytes.

    A TPU splits an asynchronous one into parts, which have the same chain, and fuses each with what
    it computes meanwhile.
    """
    wholes: dict[str, tuple[str, str, bool, int]] = {}
    for computation in parse(text)[0].values():
        for each in computation:
            match = re.fullmatch(rf"({COLLECTIVES})(-start)?", each.kind)
            if not match:
                continue
            dtypes = "+".join(sorted({x for x, _ in _SHAPE.findall(each.shape) if x in BYTES}))
            waits = '"is_sync":true' in each.rest or not match[2]
            chain = re.search(r'chain_id="\d+"', each.rest)
            free = not waits or chain is not None
            found_by = chain[0] if chain else each.name
            wholes[found_by] = match[1], dtypes, free, size_of(each.shape)
    found: dict[tuple[str, str, bool], list[int]] = {}
    for kind, dtypes, free, size in wholes.values():
        found.setdefault((kind, dtypes, free), []).append(size)
    return [
        {"kind": kind, "dtype": dtype, "asynchronous": free, "count": len(sizes),
         "bytes": sum(sizes)}
        for (kind, dtype, free), sizes in sorted(found.items())
    ]  # fmt: skip


def list_loops(text: str) -> list[dict[str, object]]:
    """The loops: how often each runs (0: not known before), and its JAX operation."""
    computations, _ = parse(text)
    return [
        {"trips": trips(each, computations), "operation": each.operation}
        for computation in computations.values()
        for each in computation
        if each.kind == "while"
    ]


def list_copies(text: str, least: int) -> list[str]:
    """Copies, transposes and conversions that write `least` bytes or more at once.

    Only instructions that run count, so not those within a fusion; fusions that do only this are
    found by their names.
    """
    words = r"(copy|transpose|convert|bitcast-convert)[\w.\-]*"
    return [
        f"{each.kind} {each.name} {each.shape}"
        for each, _ in scheduled(text)
        if (each.kind in ("copy", "transpose", "convert", "copy-start") or (
            each.kind == "fusion" and re.match(words, each.name)
        ))
        and size_of(each.shape) >= least
    ]  # fmt: skip


def largest_argument(text: str) -> int:
    """Bytes on a chip of the program's largest argument."""
    computations, entry = parse(text)
    return max(size_of(x.shape) for x in computations[entry] if x.kind == "parameter")


def list_shapes(text: str) -> set[tuple[str, tuple[int, ...]]]:
    """The dtype and dimensions of every array that an instruction writes."""
    return {
        (dtype, tuple(int(x) for x in dims.split(",") if x))
        for each, _ in scheduled(text)
        for dtype, dims in _SHAPE.findall(each.shape)
        if dtype in BYTES
    }


def list_atomics(ptx: str) -> dict[str, dict[str, int]]:
    """The atomic instructions of each kernel that has some."""
    found = {}
    for kernel in re.split(r"(?=\.visible \.entry)", ptx):
        name = re.match(r"\.visible \.entry (\S+)\(", kernel)
        kinds = re.findall(r"\b((?:atom|red)\.[a-z0-9_.]+)", kernel)
        if name and kinds:
            found[name[1]] = dict(collections.Counter(kinds))
    return found
