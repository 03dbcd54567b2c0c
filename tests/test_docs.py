"""The documentation: all pages are in the site, all options on theirs, all commands are typed."""

import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pages
import pytest
import yaml
from PIL import Image

from kt_jax import commands, data
from kt_jax.config import load_with_flags
from kt_jax.runs import graph, kinds

ROOT = pages.DOCS.parent
# Typed here, in this order, in one directory; the first makes runs/quickstart.
TYPED = ("runs.md", "start.md", "your_images.md", "configs.md", "status.md", "atlas.md",
         "accelerators.md", "api.md", "evaluations.md", "evaluations_transfer.md")  # fmt: skip
# Typed by a test of their subject.
ELSEWHERE = {
    "kmeans.md": "kmeans/test_kmeans_page.py",
    "features.md": "stages/test_features.py",
    "students.md": "stages/test_classify.py",
    "teachers.md": "stages/test_imported.py",
    "pretext.md": "stages/test_pretext.py",
    "models.md": "stages/test_architectures.py",
    "export.md": "models/test_reference_export.py",
    "launch.md": "test_launch.py",
    "tour.md": "tour.py",
}
PAGES = sorted(path.name for path in pages.DOCS.glob("*.md"))
LESS = (
    "--config.pretext.steps=2 --config.student.steps=2 --config.probe.max_dims=100 "
    "--config.few_shot.max_dims=100 --config.knn.max_dims=100"
)
SMALLER = {
    "--config=quickstart.py ": "--config=quickstart.py:tiny ",
    'load_config("quickstart.py"': 'load_config("quickstart.py:tiny"',
    "--config=folder.py:photos,tiny": f"--config=folder.py:photos,tiny {LESS}",
    "make quickstart\n": "",  # .ci/run has it
    "runs/tiny": "runs/quickstart",  # which is as tiny here, and finished
    "--k 8 32 128": "--k 2 3",
    "kt-jax doctor": "kt-jax doctor --seconds=1",
}


def list_nav(entries):
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            yield from list_nav(next(iter(entry.values())))


def test_every_page_is_in_the_nav():
    listed = list(list_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert len(listed) == len(set(listed))
    assert set(PAGES) <= set(listed)


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md"), *pages.DOCS.glob("*.md")],
    ids=lambda page: page.name,
)
def test_links_lead_to_files_without_a_site_too(page):
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text()):
        assert ":" in target or (page.parent / target).exists(), target


def test_the_page_of_options_has_every_option_with_words(monkeypatch):
    monkeypatch.syspath_prepend(pages.DOCS)
    generated = importlib.import_module("generated")
    page = generated.describe_options()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL))
    for kind, module in kinds.KINDS.items():
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", sections[kind], re.MULTILINE)
        assert [name for name, *_ in rows] == [field.name for field in fields(module.Options)]
    # Said in the docstring of its class, and not below the field.
    assert re.search(r"`max_occluders` \| `2` \| .* tiles", page)
    assert "[Head of learning](#head-of-learning)" in page
    assert "\n### Head of learning\n" in page


def test_the_page_of_commands_has_every_command(monkeypatch):
    monkeypatch.syspath_prepend(pages.DOCS)
    page = importlib.import_module("generated").show_help()
    parts = dict(re.findall(r"^## kt-jax (\w+)\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    assert parts.keys() == commands.COMMANDS.keys()
    assert all("usage:" in text for text in parts.values())


@pytest.mark.parametrize("page", PAGES)
def test_every_page_with_blocks_is_typed_somewhere(page):
    others = [block for block in pages.read(page) if not is_only_planned(block)]
    if page in ELSEWHERE:
        assert page in (ROOT / "tests" / ELSEWHERE[page]).read_text()
    else:
        assert page in TYPED or not others


def is_only_planned(block):
    """Whether a block is a config, or starts runs alone: `test_every_run_can_be_planned`."""
    return bool(block.file) or all(find_run(line) for line in list_lines(block))


def list_lines(block):
    """Each command as one line."""
    return block.text.replace("\\\n", "").splitlines()


def find_run(line):
    """The arguments of a command that starts a run, else nothing."""
    found = re.match(r"(?:kt-jax run|python -m kt_jax\.main) (--config=.*)", line)
    return shlex.split(found[1], comments=True) if found else []


@pytest.mark.parametrize("page", PAGES)
def test_every_run_can_be_planned(page, tmp_path, monkeypatch):
    """Configs load, and options exist; those that name an architecture of one's own apart."""
    shipped = {path.name for path in (ROOT / "configs").glob("*.py")}
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    blocks = pages.read(page)
    own = {block.file for block in blocks if block.file}
    for block in blocks:
        if block.file:
            Path(block.file).write_text(block.text)
    for block in blocks:
        for line in list_lines(block):
            given = dict(word.partition("=")[::2] for word in find_run(line))
            if not given or "--import" in given:
                continue
            assert Path(given["--config"].partition(":")[0]).name in shipped | own
            told = {key[9:]: x for key, x in given.items() if key.startswith("--config.")}
            graph.make_graph(graph.fill(load_with_flags(given["--config"], told).to_dict()))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the photographs that the pages speak of."""
    directory = tmp_path_factory.mktemp("docs")
    for folder, views, seed in (("photos", 24, 0), ("more", 4, 1)):
        images = data.open_images("photographs", size=64, views_per_photograph=views, seed=seed)
        (directory / folder).mkdir()
        for number in range(len(images)):
            Image.fromarray(images[number]).save(directory / folder / f"{number:04d}.jpg")
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("page", TYPED)
def test_the_blocks_of_a_page_run(place, page):
    for block in pages.read(page):
        # These print plans of minutes; `test_every_run_can_be_planned` has them.
        if is_only_planned(block) and all("--dry_run" in line for line in list_lines(block)):
            continue
        assert pages.run(block, place, smaller=SMALLER) == 0, block.text
