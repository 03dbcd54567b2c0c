"""An atlas: what its page and its table hold is what the run has, and no file can break it."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import types

import atlas_runs
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import adjusted_mutual_info_score, confusion_matrix

from kt_jax import commands
from kt_jax.results import atlas
from kt_jax.results.atlas import summary
from kt_jax.runs import files
from kt_jax.runs.versions import install_extra

_TYPES = {"start": "<i4", "majority": "<i4", "second": "<i4", "label": "<i4", "thumbnail": "<i4"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    place = tmp_path_factory.mktemp("atlas")
    more = {
        "coarse": {"kind": "clusters", "features": "features", "k": 2},
        "given": {"kind": "given_features", "features": str(place / "given.npy")},
        "of_given": {"kind": "clusters", "features": "given", "k": 5},
        "one": {"kind": "clusters", "features": "features", "k": 1},
        "of_others": {"kind": "label", "clusters": "clusters", "images": "test"},
        "of_twins": {"kind": "label", "clusters": "one", "images": "twins"},
    }
    rows = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)
    np.save(place / "given.npy", rows)
    atlas_runs.make_run(place, more=more)
    return place


@pytest.fixture(scope="module")
def written(root):
    """The atlas of the clusters, compared with coarser ones."""
    run = root / "run"
    return atlas.write_atlas(run / "clusters", root / "out", compare=run / "coarse")


@pytest.fixture(scope="module")
def page(written):
    return Page(written.page)


class Page:
    """The data of a page."""

    def __init__(self, path):
        self.text = path.read_text(encoding="utf-8")
        self.data, self.sheets = atlas_runs.read_page(path)
        for name, text in self.data.pop("arrays").items():
            kind = "<i4" if name in (*_TYPES, "other") else "<f4"
            setattr(self, name, np.frombuffer(base64.b64decode(text), kind))

    @property
    def cluster(self):
        """Of each member, in the order of the page."""
        return np.repeat(np.arange(self.data["k"]), np.diff(self.start))

    def by_key(self, values):
        return dict(zip(self.data["keys"], np.asarray(values).tolist(), strict=True))


def test_page_has_the_clusters_of_the_run(root, page):
    run = root / "run"
    table = files.read_table(run / "pseudo_labels/labels.parquet")
    clusters = files.read_json(run / "clusters/clusters.json")
    assert np.diff(page.start).tolist() == clusters["sizes"]
    assert sorted(page.data["keys"]) == sorted(table["key"])
    for name, ours in [("cluster", page.cluster), ("second_cluster", page.second),
                       ("distance", page.distance), ("margin", page.margin)]:  # fmt: skip
        assert page.by_key(ours) == dict(zip(table["key"], table[name].tolist(), strict=True))
    assignment = np.load(run / "clusters/assignment.npy")
    assert (table["cluster"] == assignment).all()
    assert page.data["facts"]["distances"] == "pseudo_labels/labels.parquet"
    # Within a cluster by distance.
    for first, last in zip(page.start[:-1], page.start[1:], strict=True):
        assert (np.diff(page.distance[first:last]) >= 0).all()


def test_page_says_how_tight_and_pure_a_cluster_is(root, page):
    table = files.read_table(root / "run/pseudo_labels/labels.parquet")
    classes = np.array([key.split("/")[0] for key in table["key"]])
    names = page.data["classNames"]
    assert names == sorted(atlas_runs.CLASSES)
    for cluster in range(5):
        members = table["cluster"] == cluster
        counts = [np.sum(classes[members] == name) for name in names]
        assert page.purity[cluster] == pytest.approx(max(counts) / members.sum())
        assert counts[page.majority[cluster]] == max(counts)
        assert page.tightness[cluster] == pytest.approx(table["distance"][members].mean())
    assert page.by_key([names[x] for x in page.label]) == dict(
        zip(table["key"], classes, strict=True)
    )
    facts = page.data["facts"]
    expected = adjusted_mutual_info_score(classes, table["cluster"])
    assert facts["ami"] == pytest.approx(expected, abs=1e-9)
    assert facts["commonest"] == pytest.approx(1 / 3)
    assert facts["layer"] == "conv2"


def test_page_compares_clusterings(root, page):
    first, second = (np.load(root / f"run/{x}/assignment.npy") for x in ("clusters", "coarse"))
    ours = np.zeros((5, 2), int)
    np.add.at(ours, (page.cluster, page.other), 1)
    assert (ours == confusion_matrix(first, second, labels=range(5))[:, :2]).all()
    assert page.data["other"]["name"] == "run/coarse"
    assert page.data["other"]["common"] == 60
    expected = adjusted_mutual_info_score(first, second)
    assert page.data["other"]["ami"] == pytest.approx(expected, abs=1e-9)


def test_sheets_hold_the_images_that_the_page_looks_for(root, page):
    side = page.data["side"]
    assert side == 48  # the smallest: no image is enlarged further than need be
    assert (page.thumbnail >= 0).all()
    for cluster in range(5):
        text = page.sheets[f"{cluster}-0"]
        sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
        first, last = page.start[cluster], page.start[cluster + 1]
        columns = min(last - first, page.data["columns"])
        assert sheet.shape[:2] == (-(-(last - first) // columns) * side, columns * side)
        for member in range(first, last):
            row, column = divmod(page.thumbnail[member], columns)
            ours = sheet[row * side :][:side, column * side :][:, :side]
            path = root / "pictures" / page.data["keys"][member]
            theirs = np.asarray(Image.open(path).resize((side, side)))
            assert np.abs(ours.mean((0, 1)) - theirs.mean((0, 1))).max() < 4


def test_page_loads_nothing_and_runs_no_name(page):
    assert "://" not in page.text
    assert re.findall(r'(?:src|href)="([^"#]+)"', page.text) == ["data:,"]
    assert "default-src 'none'" in page.text
    assert any(atlas_runs.HOSTILE in key for key in page.data["keys"])
    for part in ("<img", "<b onclick"):
        assert part not in page.text


def test_table_has_a_row_an_image(root, written, page):
    table = pq.read_table(written.table)
    assert table.column_names == [
        "key", "cluster", "distance", "margin", "second_cluster", "class", "x", "y", "other",
        "image",
    ]  # fmt: skip
    labels = files.read_table(root / "run/pseudo_labels/labels.parquet")
    for name in ("key", "cluster", "distance", "margin", "second_cluster"):
        assert table[name].to_pylist() == labels[name].tolist()
    keys = table["key"].to_pylist()
    assert table["class"].to_pylist() == [key.split("/")[0] for key in keys]
    assert page.by_key(page.x) == dict(zip(keys, table["x"].to_pylist(), strict=True))
    first = table["image"][0].as_py()
    assert Image.open(io.BytesIO(first["bytes"])).size == (48, 48)
    assert first["path"] == f"{keys[0]}.jpg"


def test_the_run_is_not_touched(root, tmp_path):
    def look():
        paths = sorted(path for path in (root / "run").rglob("*") if path.is_file())
        return [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]

    before = look()
    os.utime(root / "pictures/cat/001.png")  # it is scanned again
    for images in (None, str(root / "others")):
        atlas.write_atlas(root / "run/clusters", tmp_path, images=images)
    assert look() == before


def test_the_same_page_again(root, written, page, tmp_path):
    again = atlas.write_atlas(
        root / "run/clusters", tmp_path / "again.html", compare=root / "run/coarse"
    )
    assert again.page.read_text(encoding="utf-8") == page.text
    assert again.table == tmp_path / "again.parquet"


def make_older(clusters):
    """Takes away what older versions did not write with clusters."""
    manifest = files.read_json(clusters / "manifest.json")
    del manifest["files"]["labels.parquet"]
    files.write_json(clusters / "manifest.json", manifest)
    (clusters / "labels.parquet").unlink()


def test_without_labels_the_features_are_measured(root, page, tmp_path):
    run = shutil.copytree(root / "run", tmp_path / "run")
    shutil.rmtree(run / "pseudo_labels")
    make_older(run / "clusters")
    ours = Page(atlas.write_atlas(run / "clusters", tmp_path / "out").page)
    assert ours.data["facts"]["distances"].startswith("features, ")
    assert ours.by_key(ours.cluster) == page.by_key(page.cluster)
    order = [ours.data["keys"].index(key) for key in page.data["keys"]]
    np.testing.assert_allclose(ours.distance[order], page.distance, atol=1e-5)
    np.testing.assert_allclose(ours.x[order], page.x, atol=1e-5)


def test_clusters_alone_label_images_anew(root, page, tmp_path):
    alone = shutil.copytree(root / "run/clusters", tmp_path / "clusters")
    given = {"images": str(root / "pictures"), "compare": root / "run/clusters"}
    ours = Page(atlas.write_atlas(alone, tmp_path / "out", **given).page)
    assert ours.by_key(ours.cluster) == page.by_key(page.cluster)
    assert ours.data["other"]["ami"] == pytest.approx(1)
    order = [ours.data["keys"].index(key) for key in page.data["keys"]]
    np.testing.assert_allclose(ours.distance[order], page.distance, atol=1e-3)
    np.testing.assert_allclose(ours.x[order], page.x, atol=1e-3)


def test_a_set_of_the_run_and_its_labels_have_the_same_clusters(root, tmp_path):
    run = root / "run"
    ours = Page(atlas.write_atlas(run / "clusters", tmp_path / "a", images="test").page)
    labels = Page(atlas.write_atlas(run / "of_others", tmp_path / "b").page)
    assert len(ours.data["keys"]) == 12
    assert ours.by_key(ours.cluster) == labels.by_key(labels.cluster)
    # The map of both is that of the clusters; of labels the distances alone are known.
    np.testing.assert_array_equal(ours.centreX, labels.centreX)
    assert np.isfinite(labels.x).all()


def test_images_may_be_of_any_source(root, page, tmp_path):
    table = tmp_path / "some.csv"
    keys = page.data["keys"][:7]
    lines = [f'"{root / "pictures" / key}"' for key in keys]
    table.write_text("file\n" + "\n".join(lines) + "\n")
    arguments = [str(table), "--source=manifest", "--option", "path_column=file"]
    place = tmp_path / "page.html"
    assert commands.main(["atlas", str(root / "run/clusters"), *arguments, f"--out={place}"]) == 0
    ours = Page(place)
    assert sorted(ours.cluster.tolist()) == sorted(page.cluster[:7].tolist())


def test_clusters_of_given_features_know_their_images(root, tmp_path):
    ours = Page(atlas.write_atlas(root / "run/of_given", tmp_path / "run").page)
    assignment = np.load(root / "run/of_given/assignment.npy")
    keys = files.read_table(root / "run/given/index.parquet")["key"]
    assert ours.by_key(ours.cluster) == dict(zip(keys, assignment.tolist(), strict=True))
    alone = shutil.copytree(root / "run/of_given", tmp_path / "alone")
    place = str(root / "pictures")
    again = Page(atlas.write_atlas(alone, tmp_path / "moved", images=place).page)
    assert again.by_key(again.distance) == ours.by_key(ours.distance)


def test_one_cluster_has_no_second(root, tmp_path):
    ours = Page(atlas.write_atlas(root / "run/one", tmp_path).page)
    assert ours.start.tolist() == [0, 60]
    assert set(ours.second) == {-1}
    assert np.isinf(ours.margin).all()
    assert (ours.centreX == 0).all()


def test_labels_of_other_images_in_the_same_clusters_are_not_taken(root, tmp_path, capsys):
    ours = Page(atlas.write_atlas(root / "run/one", tmp_path / "out").page)
    assert ours.data["facts"]["distances"].endswith("one/labels.parquet")
    assert ours.data["facts"]["images"].startswith("pictures")
    run = shutil.copytree(root / "run", tmp_path / "run")
    make_older(run / "one")
    ours = Page(atlas.write_atlas(run / "one", tmp_path / "older").page)
    assert ours.data["facts"]["distances"].startswith("features, ")
    shutil.rmtree(run / "features")
    assert "has neither the features nor labels" in call(
        capsys, run / "one", f"--out={tmp_path / 'none'}"
    )
    again = Page(atlas.write_atlas(run / "clusters", tmp_path / "again").page)
    assert again.data["facts"]["distances"] == "pseudo_labels/labels.parquet"


def test_an_earlier_atlas_alone_is_replaced(root, tmp_path, capsys):
    place = tmp_path / "next.html"
    arguments = (root / "run/clusters", f"--out={place}")
    labels = shutil.copy(root / "run/pseudo_labels/labels.parquet", tmp_path / "next.parquet")
    before = files.hash_file(labels)
    said = call(capsys, *arguments)
    assert f"--out={place} would replace {labels}, which is not an atlas: choose" in said
    assert files.hash_file(labels) == before
    labels.write_text("not even a table")
    assert "which is not an atlas" in call(capsys, *arguments)
    labels.unlink()
    place.write_text("<!doctype html><title>Mine</title>")
    assert f"would replace {place}, which is not an atlas" in call(capsys, *arguments)
    assert place.read_text().endswith("Mine</title>")
    place.unlink()
    for _ in range(2):
        atlas.write_atlas(root / "run/clusters", place)


@pytest.mark.parametrize("mark", [{"config.json": {"stages": ["a"]}}, {"manifest.json": {}}])
def test_no_run_or_artifact_gets_an_atlas(root, tmp_path, capsys, mark):
    for name, content in mark.items():
        files.write_json(tmp_path / name, content)
    for out in (tmp_path, tmp_path / "deep/one.html"):
        said = call(capsys, root / "run/clusters", f"--out={out}")
        assert f"lies in {tmp_path}, which is a run or an artifact" in said
    assert [path.name for path in tmp_path.iterdir()] == [*mark]


def test_labels_alone_find_their_images_by_name(root, page, tmp_path):
    alone = shutil.copytree(root / "run/pseudo_labels", tmp_path / "labels")
    moved = str(shutil.copytree(root / "pictures", tmp_path / "moved"))
    ours = Page(atlas.write_atlas(alone, tmp_path / "out", images=moved).page)
    assert ours.by_key(ours.cluster) == page.by_key(page.cluster)
    assert not hasattr(ours, "centreX")  # no centroids are there: there is no map
    assert pq.read_schema(tmp_path / "out/atlas.parquet").names == [
        "key", "cluster", "distance", "margin", "second_cluster", "class", "image",
    ]  # fmt: skip


def test_fewer_thumbnails_where_fewer_bytes_are_allowed(root, written, tmp_path):
    few = atlas.write_atlas(root / "run/clusters", tmp_path, max_megabytes=0.16)
    assert few.thumbnails < written.thumbnails
    assert few.page.stat().st_size <= 160_000
    ours = Page(few.page)
    assert (ours.thumbnail[ours.start[:-1]] == 0).all()  # the nearest of each cluster
    images = pq.read_table(few.table)["image"]
    assert images.null_count == 60 - few.thumbnails


def call(capsys, *arguments):
    """What the command says of a mistake: one line, with status 2."""
    assert commands.main(["atlas", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("kt_jax atlas: ")
    return said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}/nothing", "--out={out}"], "there is no directory .*/run/nothing"),
        (["{run}", "--out={out}"], "It is a run: name a stage of it, such as .*/run/clusters"),
        (["{run}/features", "--out={out}"], "features holds Features, but an atlas shows Clusters"),
        (["{run}/clusters", "/nowhere", "--out={out}"], "/nowhere does not exist"),
        (["{run}/clusters", "--out={run}/atlas"], "--out=.* lies in .*/run, which is only read"),
        (["{run}/clusters", "--out={out}", "--map=tsne"], "--map=tsne: choose one of pca, umap"),
        (["{run}/clusters", "--out={out}", "--max_megabytes=0"], "--max_megabytes=0: give more"),
        (["{run}/clusters", "--out={out}", "--max_megabytes=0.13"], "--max_megabytes: .* MB are"),
        (["{run}/clusters", "--out={out}", "--compare={run}/of_others"],
         "000.png of pictures, all has another content than the image of that name that"),
        (["{run}/pseudo_labels", "{root}/others", "--out={out}"], "lacks 48 of the 60 images of"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(root, tmp_path, capsys, arguments, message):
    names = {"run": root / "run", "root": root, "out": tmp_path / "out"}
    said = call(capsys, *(each.format(**names) for each in arguments))
    assert re.search(message, said), said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_clusterings_of_other_images_are_not_compared():
    one, other = (atlas_runs.make_members([key], [0]) for key in ("a", "b"))
    with pytest.raises(ValueError, match="--compare=x: it clusters other images: none of its 1"):
        summary.compare(one, other, name="x", k=1)


def test_images_that_have_gone_or_changed_are_refused(root, tmp_path, capsys):
    run = shutil.copytree(root / "run", tmp_path / "run")
    config = files.read_json(run / "config.json")
    config["images"]["train"]["path"] = str(tmp_path / "pictures")
    files.write_json(run / "config.json", config)
    arguments = (run / "clusters", f"--out={tmp_path / 'out'}")
    said = call(capsys, *arguments)
    assert "the images 'train' of" in said
    assert "give that place as PATH after the clusters" in said
    shutil.copytree(root / "pictures", tmp_path / "pictures")
    (tmp_path / "pictures/cat/001.png").unlink()
    said = call(capsys, *arguments)
    assert "60 -> 59 images; 1 gone: cat/001.png. Bring them back" in said
    # A picture of the same name that is another.
    shutil.copy(root / "pictures/owl/001.png", tmp_path / "pictures/cat/001.png")
    said = call(capsys, run / "pseudo_labels", tmp_path / "pictures", arguments[1])
    assert "cat/001.png of pictures, all has another content than the image of that name" in said
    (run / "pseudo_labels/manifest.json").unlink()
    said = call(capsys, run / "pseudo_labels", arguments[1])
    assert "which is unfinished" in said


def test_clusters_of_unknown_images_ask_for_them(root, tmp_path, capsys):
    for name in ("clusters", "pseudo_labels"):
        alone = shutil.copytree(root / "run" / name, tmp_path / name)
        said = call(capsys, alone, f"--out={tmp_path / 'out'}")
        assert "lies in no run that says where its 60 images are, such as" in said
    make_older(tmp_path / "clusters")
    said = call(capsys, tmp_path / "clusters", f"--out={tmp_path / 'out'}")
    assert "lies in no run, so its images are not known: give the images as PATH after it" in said


def test_umap_needs_its_package(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = call(capsys, root / "run/clusters", f"--out={tmp_path / 'out'}", "--map=umap")
    assert f"--map=umap needs umap-learn: {install_extra('umap')}" in said


def test_umap_is_made_of_the_principal_components(root, page, tmp_path, monkeypatch):
    class Umap:  # the package is no dependency of the tests
        def __init__(self, **options):
            assert options == {"n_neighbors": 15, "random_state": 0, "n_jobs": 1}

        def fit_transform(self, spots):
            assert spots.shape == (60, 50)
            return -spots[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap, __spec__=""))
    ours = Page(atlas.write_atlas(root / "run/clusters", tmp_path, map="umap").page)
    np.testing.assert_allclose(ours.x, -page.x, atol=1e-5)
    middles = [np.median(ours.x[ours.cluster == number]) for number in range(5)]
    np.testing.assert_allclose(ours.centreX, middles, atol=1e-6)
    assert ours.data["facts"]["shares"] == []


def test_umap_without_centroids_is_refused(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(__spec__=""))
    alone = shutil.copytree(root / "run/pseudo_labels", tmp_path / "labels")
    out = f"--out={tmp_path / 'out'}"
    said = call(capsys, alone, root / "pictures", out, "--map=umap")
    assert "--map=umap: Labels without their Clusters have no map" in said


def test_help_waits_for_nothing():
    code = (
        "import sys; from kt_jax.commands import main\n"
        "try: main(['atlas', '--help'])\n"
        "except SystemExit: sys.exit('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "CLUSTERS" in done.stdout


def test_data_is_json_in_which_no_html_begins(page):
    (text,) = re.findall(r'id="data">(.*?)</script>', page.text)
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text)["k"] == 5
