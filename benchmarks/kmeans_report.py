"""Makes kmeans.md and kmeans.svg from kmeans.json: medians, ratios, and whether targets are met."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS = ("kt_jax float32", "kt_jax exact")
PEERS = ("faiss", "scikit-learn lloyd", "scikit-learn elkan")
SYSTEMS = (*PEERS, "scikit-learn-intelex", *OURS)
COLOURS = dict(
    zip(SYSTEMS, ("#999999", "#f0b060", "#d98a2b", "#b05a10", "#4c8bd6", "#1f4e8c"), strict=True)
)
STREAM_MEMORY, STREAM_RATIO = 1.5e9, 1.5  # targets: bytes, time of a row beside resident rows

Section = dict[str, Any]


def write(everything: dict[str, Section], out: Path) -> None:
    """Writes the page and the figure of all sections that were ever measured."""
    pages: dict[str, Callable[[Section], list[str]]] = {
        "main": tell_main,
        "seeding": tell_seeding,
        "out_of_core": tell_out_of_core,
        "growth": tell_growth,
        "update": tell_update,
        "gpu": tell_gpu,
    }
    lines = [
        "# k-means: speed and memory",
        "",
        "Made by `benchmarks/kmeans_report.py` from `kmeans.json`, which holds every number;",
        "`make bench-kmeans` measures anew. Every system has its own process and all cores, the",
        "processes take turns, and figures are medians; ranges are least to most.",
        "",
        "![Seconds of an iteration in ratio to a plain matrix product, and how they grow]"
        "(kmeans.svg)",
    ]
    for name, tell in pages.items():
        if name in everything:
            title, *rest = tell(everything[name])
            lines += ["", f"## {title}", "", tell_machine(everything[name]), "", *rest]
    (out / "kmeans.md").write_text("\n".join(lines) + "\n")
    draw(everything, out / "kmeans.svg")


def tell_machine(section: Section) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in section["versions"].items())
    quick = "**Tiny sizes (--quick): none of these figures means anything.** "
    return (
        (quick if "--quick" in section["command"] else "")
        + f"`{section['command']}` on {section['date']}: {section['cpu']}, "
        f"{section['cores']} cores, {section['memory_bytes'] / 1e9:.0f} GB, load "
        f"{section['load_before']:.1f} before; {versions}."
    )


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def values(results: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [result[name] for result in results if result.get(name) is not None]


def median(results: Sequence[dict[str, Any]], name: str) -> float:
    """NaN if nothing was measured."""
    found = values(results, name)
    return statistics.median(found) if found else float("nan")


def number(value: float, how: str = ".3g") -> str:
    return "-" if value != value else format(value, how)


def spread(results: Sequence[dict[str, Any]], name: str) -> str:
    found = values(results, name)
    if not found:
        return "-"
    return f"{statistics.median(found):.3g} ({min(found):.3g} to {max(found):.3g})"


def verdict(yes: bool) -> str:
    return "**yes**" if yes else "**no**"


def error(results: Sequence[dict[str, Any]]) -> str | None:
    return next((result["error"] for result in results if "error" in result), None)


def gemm_seconds(libraries: dict[str, list[dict[str, Any]]]) -> tuple[float, str]:
    """Of the fastest library, and which it was."""
    found = [(median(results, "seconds"), name) for name, results in libraries.items()]
    return min((pair for pair in found if pair[0] == pair[0]), default=(float("nan"), "none"))


def describe_rows(row: dict[str, Any]) -> str:
    return f"{row['data']} {row['n']:,} x {row['d']:,}, k = {row['k']:,}"


# Sections: the title, and what stands under it.


def tell_main(section: Section) -> list[str]:
    few, many = section["iterations"]
    lines = [
        f"{many} iterations from the same centroids, on the CPU",
        f"Seconds of an iteration are the slope (time of {many} iterations - time of {few}) / "
        f"{many - few}, medians of {section['repeats']} repeats; faiss runs without subsampling, "
        "scikit-learn with n_init=1 and tol=0. Each process warms up first: the peers by one "
        f"iteration, kt_jax by all {many} (it compiles further programs for iterations in which "
        "few centroids change); *cold* is that first call. GEMM is the fastest x @ c.T of NumPy "
        "and JAX (with either of its CPU libraries), 2nkd operations. The inertia is computed "
        "alike for all, in float64 from the centroids, and stands in ratio to scikit-learn "
        "lloyd's. *Cores* is CPU time over wall time. Peak memory includes Python and the rows; "
        "*loaded* is what the process had before the first call.",
        "",
    ]
    if not any(row["data"] == "real" for row in section["rows"]):
        lines += ["No --features were given: the rows of real features are skipped.", ""]
    for row in section["rows"]:
        lines += [f"### {describe_rows(row)}", "", *tell_row(row), ""]
    lines += ["### Is kt_jax no slower?", ""]
    header = ["rows", "system", "iteration: than the faster of faiss and scikit-learn"]
    header += ["iteration: than any peer", f"all {many}, warm: than faiss and scikit-learn"]
    return lines + table(header, [line for row in section["rows"] for line in judge_row(row)])


def tell_row(row: dict[str, Any]) -> list[str]:
    gemm, library = gemm_seconds(row["gemm"])
    rate = 2 * row["n"] * row["k"] * row["d"] / gemm / 1e9
    lloyd = median(row["systems"]["scikit-learn lloyd"], "inertia")
    lines, notes = [], []
    for name, results in row["systems"].items():
        if error(results):
            notes.append(f"{name}: {error(results)}.")
            continue
        done = sorted({result["iterations"][1] for result in results})
        cold = number(median(results, "first_seconds")) if name in OURS else ""
        lines.append(
            [
                name,
                spread(results, "seconds_per_iteration"),
                number(median(results, "seconds_per_iteration") / gemm, ".2f"),
                number(median(results, "total_seconds")),
                cold,
                ", ".join(map(str, done)),
                number(median(results, "inertia") / lloyd, ".6f"),
                number(median(results, "peak_bytes") / 1e6, ",.0f"),
                number(median(results, "loaded_bytes") / 1e6, ",.0f"),
                number(median(results, "cores_used"), ".1f"),
            ]
        )
    header = ["system", "s/iteration", "/ GEMM", "total s", "cold total s", "iterations"]
    header += ["inertia", "peak MB", "loaded MB", "cores"]
    notes.append(f"GEMM: {gemm:.3g} s, {rate:,.0f} GFLOP/s ({library}).")
    return [*table(header, lines), "", *notes]


def judge_row(row: dict[str, Any]) -> list[list[str]]:
    """For each of ours: seconds of an iteration beside two sets of peers, and the total."""
    every = (*PEERS, "scikit-learn-intelex")
    lines = []
    for name in OURS:
        comparisons = (
            compare(row, name, PEERS, "seconds_per_iteration"),
            compare(row, name, every, "seconds_per_iteration"),
            compare(row, name, PEERS, "total_seconds"),
        )
        lines.append([describe_rows(row), name, *comparisons])
    return lines


def compare(row: dict[str, Any], ours: str, peers: Sequence[str], what: str) -> str:
    """No verdict where a time is missing or drowned in noise, as a slope may be."""
    missing = [peer for peer in peers if error(row["systems"][peer])]
    times = {peer: median(row["systems"][peer], what) for peer in peers if peer not in missing}
    own = median(row["systems"][ours], what)
    measured = [values(row["systems"][name], what) for name in (ours, *times)]
    if not times or not all(found and min(found) > 0 for found in measured):
        return "not to be told: a time is missing or less than its noise"
    peer = min(times, key=lambda name: times[name])
    without = f" (without {', '.join(missing)})" if missing else ""
    return f"{verdict(own <= times[peer])}: {own / times[peer]:.2f} x {peer}{without}"


def tell_seeding(section: Section) -> list[str]:
    lines = [
        "From seeding to scikit-learn's inertia, on the CPU",
        "scikit-learn: KMeans(k, n_init=1, random_state=seed) to its own end (greedy k-means++, "
        "tol=1e-4). kt_jax: fit(x, k, seed=seed) with tolerance=0, ended as soon as its inertia is "
        "within 0.1 % of that; *warm* is the second such call, after one that compiled. Where it "
        "was not reached, the time is that to where fit ended. Seeds are the repeats.",
        "",
    ]
    lines_of, judged = [], []
    for row in section["rows"]:
        kept = [t for t in row["tries"] if "error" not in t["scikit-learn"] | t["kt_jax"]]
        for one in kept:
            peer, ours = one["scikit-learn"], one["kt_jax"]
            warm = ours["warm"]
            lines_of.append(
                [
                    describe_rows(row),
                    one["seed"],
                    number(peer["seconds"]),
                    peer["iterations"],
                    number(warm["seconds"]),
                    number(warm["seeded_seconds"]),
                    warm["iterations"],
                    number(ours["cold"]["seconds"]),
                    number(warm["seconds"] / peer["seconds"], ".2f"),
                    "yes" if warm["reached"] else "no",
                    number(warm["inertia"] / peer["inertia"], ".4f"),
                ]
            )
        for one in (t for t in row["tries"] if t not in kept):
            failed = one["scikit-learn"] | one["kt_jax"]
            lines_of.append([describe_rows(row), one["seed"], failed["error"], *[""] * 8])
        if kept:
            times = [t["kt_jax"]["warm"]["seconds"] / t["scikit-learn"]["seconds"] for t in kept]
            reached = sum(t["kt_jax"]["warm"]["reached"] for t in kept)
            judged.append(
                f"- {describe_rows(row)}: scikit-learn's inertia within 0.1 % reached by "
                f"{reached} of {len(kept)} seeds, {verdict(reached == len(kept))}; "
                f"{statistics.median(times):.2f} x its time in the median."
            )
    header = ["rows", "seed", "scikit-learn s", "iterations", "kt_jax warm s", "of it to seeds"]
    header += ["iterations", "cold s", "time ratio", "reached", "inertia ratio"]
    return [*lines, *table(header, lines_of), "", *judged]


def tell_out_of_core(section: Section) -> list[str]:
    size, k, d = section["bytes"] / 1e9, section["k"], section["d"]
    resident = np.median((section["systems"]["resident"][0]).get("seconds", [np.nan]))
    resident_row = resident / section["resident_rows"]
    lines, judged = [], []
    for name, (result, *_) in section["systems"].items():
        if "error" in result:
            judged.append(f"- {name}: {result['error']}.")
            continue
        n = section["resident_rows"] if name == "resident" else section["n"]
        a_row = float(np.median(result["seconds"])) / n
        line = [name, f"{n:,}", number(a_row * n), number(a_row * 1e6)]
        if name == "resident":
            lines.append([*line, "1", *[""] * 4])
            continue
        anonymous, ratio = result["peak_anonymous_bytes"], float(a_row / resident_row)
        others = (anonymous, result["before_anonymous_bytes"], result["peak_file_bytes"])
        lines.append(
            [
                *line,
                number(ratio, ".2f"),
                *(f"{value / 1e6:,.0f}" for value in others),
                number(result["total_seconds"]),
            ]
        )
        judged.append(
            f"- {name}: memory below {STREAM_MEMORY / 1e9} GB: "
            f"{verdict(anonymous < STREAM_MEMORY)} ({anonymous / 1e9:.2f} GB); time of a row at "
            f"most {STREAM_RATIO} x resident rows': {verdict(ratio <= STREAM_RATIO)} "
            f"({number(ratio, '.2f')})."
        )
    header = ["rows", "n", "s/iteration", "us/iteration/row", "/ resident", "peak RssAnon MB"]
    header += ["before MB", "peak RssFile MB", "total s"]
    return [
        f"Rows on disk: {size:.3g} GB, {section['n']:,} x {d} float32, k = {k:,}",
        'Three iterations with init="random", median of the three; the files\' pages are dropped '
        "from memory before each process, so the first pass reads the disk; later ones read what "
        f"the kernel kept of it in this machine's {section['memory_bytes'] / 1e9:.0f} GB. Each was "
        "measured once. RssAnon is memory of the process itself, sampled every 50 ms; RssFile is "
        "pages of files that it has mapped, which the kernel takes back when memory runs short. "
        f"Resident: the first {section['resident_rows']:,} of the same rows, the second of two "
        "fits.",
        "",
        *table(header, lines),
        "",
        *judged,
    ]


def growth_points(section: Section) -> dict[str, tuple[list[int], list[float]]]:
    """For n, d and k: the values and the median seconds of an iteration."""
    runs = [result["axes"] for result in section["results"] if "axes" in result]
    points = {}
    for axis in runs[0] if runs else ():
        sizes = [size for size, _ in runs[0][axis]]
        times = [[time for _, time in run[axis]] for run in runs]
        points[axis] = sizes, [float(time) for time in np.median(times, axis=0)]
    return points


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Slope of the line through the logarithms: 1 is proportional."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def tell_growth(section: Section) -> list[str]:
    base = ", ".join(f"{name} = {value:,}" for name, value in section["base"].items())
    lines = []
    for axis, (sizes, times) in growth_points(section).items():
        pairs = zip(sizes, times, strict=True)
        shown = ", ".join(f"{size:,}: {time:.3g}" for size, time in pairs)
        lines.append([axis, shown, number(exponent(sizes, times), ".2f")])
    failed = [f"Not measured: {error(section['results'])}."] if error(section["results"]) else []
    return [
        "How an iteration's time grows",
        f"One of n, d and k changes, the others stay at {base}; Gaussian rows, float32; the median "
        "iteration of a fit whose programs are compiled. An exponent of 1 is proportional growth.",
        "",
        *table(["of", "seconds of an iteration", "exponent"], lines),
        *failed,
    ]


def tell_update(section: Section) -> list[str]:
    systems = dict(section["systems"])
    updates = systems.pop("update")
    gemm, library = gemm_seconds(systems)
    lines = []
    for method in updates[0].get("seconds", {}):
        time = statistics.median(result["seconds"][method] for result in updates)
        lines.append([method, number(time), number(time / gemm, ".3f")])
    return [
        "The centroids' update by method, on the CPU",
        f"The sums of {section['n']:,} x {section['d']} rows by {section['k']:,} labels, in ratio "
        f"to the plain GEMM of the same size ({gemm:.3g} s, {library}): what "
        "kt_jax.kmeans.cluster_sums.update_method rests on.",
        "",
        *table(["method", "seconds", "/ GEMM"], lines),
        *([f"Not measured: {error(updates)}."] if error(updates) else []),
    ]


def tell_gpu(section: Section) -> list[str]:
    rates = section["gemm"].get("rates", {})
    plain = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    # What a precision can reach: products of "exact" are bfloat16's.
    limits = {**rates, "exact": rates.get("bfloat16")}
    lines = []
    for row in section["rows"]:
        head = [row["job"], row["precision"], f"{row['d']:,}", f"{row['k']:,}"]
        if "error" in row:
            lines.append([*head, "", row["error"], "", ""])
            continue
        limit = limits.get(row["precision"]) or float("nan")
        assign = number(row.get("assign", float("nan")), ",.1f")
        cells = [f"{row['n']:,}", number(row["step"], ",.1f"), assign]
        lines.append([*head, *cells, number(row["step"] / limit, ".0%")])
    header = ["system", "precision", "d", "k", "n", "step TFLOP/s", "assign TFLOP/s", "/ GEMM"]
    return [
        f"GPU: {section['device'].get('device', 'unknown')}",
        f"2nkd / time, of a whole iteration and of assigning alone. Plain products of side "
        f"{section['gemm']['side']:,} give, in TFLOP/s: {plain or section['gemm'].get('error')}. "
        "kt_jax's assign is the whole call: checks, labels of every row brought to the host.",
        "",
        *table(header, lines),
    ]


# The figure.


def draw(everything: dict[str, Section], path: Path) -> None:
    """Draws what was measured: bars beside GEMM on the left, growth on the right."""
    style = {
        **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
        **{"svg.fonttype": "none", "svg.hashsalt": "kmeans", "font.size": 8},
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        draw_bars(left, everything.get("main", {}).get("rows", []))
        draw_growth(right, growth_points(everything.get("growth", {"results": []})))
        figure.savefig(path, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))


def draw_bars(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    width = 0.8 / len(SYSTEMS)
    for place, name in enumerate(SYSTEMS):
        heights = [
            median(row["systems"][name], "seconds_per_iteration") / gemm_seconds(row["gemm"])[0]
            for row in rows
        ]
        at = np.arange(len(rows)) + (place - (len(SYSTEMS) - 1) / 2) * width
        axes.bar(at, heights, width, label=name, color=COLOURS[name])
    axes.axhline(1, color="#808080", linewidth=0.8)
    names = [f"{row['data']}\nd = {row['d']:,}\nk = {row['k']:,}" for row in rows]
    axes.set_xticks(range(len(rows)), names)
    axes.set_title("Seconds of an iteration / seconds of x @ c.T alone")
    if rows:
        axes.legend(frameon=False, ncols=2)


def draw_growth(axes: Axes, points: dict[str, tuple[list[int], list[float]]]) -> None:
    for axis, (sizes, times) in points.items():
        ratio = np.array(sizes) / sizes[0]
        label = f"{axis} from {sizes[0]:,}, exponent {exponent(sizes, times):.2f}"
        axes.loglog(ratio, times, marker="o", markersize=4, label=label)
    axes.set(title="Seconds of an iteration as one size grows", xlabel="times the smallest")
    axes.set_xscale("log", base=2)
    if points:
        axes.legend(frameon=False)
