"""The page in a real browser: opened from disk, searched, sorted, clicked, and looked at."""

import io
import shutil

import atlas_runs
import headless_browser
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from kt_jax.results import atlas
from kt_jax.runs import files


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    place = tmp_path_factory.mktemp("browser")
    coarse = {"kind": "clusters", "features": "features", "k": 2}
    atlas_runs.make_run(place, more={"coarse": coarse})
    return place


@pytest.fixture(scope="module")
def table(root):
    """The labels of the run."""
    return files.read_table(root / "run/pseudo_labels/labels.parquet")


@pytest.fixture(scope="module")
def path(root):
    run = root / "run"
    return atlas.write_atlas(run / "clusters", root / "out", compare=run / "coarse").page


@pytest.fixture(scope="module")
def browser():
    with headless_browser.open_chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, path):
    """The page; in the end it has said nothing, and asked for nothing but itself."""
    said = []
    with headless_browser.open_page(browser, path, said=said) as page:
        yield page
    assert said == []


def shown(page):
    """The clusters in the order of the list."""
    return [int(text) for text in page.locator(".card h2 b").all_text_contents()]


def search(page, text):
    page.fill("#search", text)
    page.wait_for_timeout(200)
    return shown(page)


def mean_colour(element):
    picture = Image.open(io.BytesIO(element.screenshot())).convert("RGB")
    return np.asarray(picture)[8:-8, 8:-8].mean((0, 1))


def test_all_clusters_are_there_and_sorted(page, table):
    sizes = np.bincount(table["cluster"])
    assert shown(page) == np.lexsort((np.arange(5), -sizes)).tolist()
    page.click("#direction")
    assert shown(page) == np.lexsort((np.arange(5), sizes)).tolist()
    means = [table["distance"][table["cluster"] == number].mean() for number in range(5)]
    page.select_option("#sort", "tightness")
    assert shown(page) == np.argsort(means).tolist()
    assert page.inner_text("#direction") == "tightest first"
    page.select_option("#sort", "number")
    assert shown(page) == list(range(5))
    page.select_option("#sort", "purity")
    classes = np.array([key.split("/")[0] for key in table["key"]])
    purity = [
        max(np.unique(classes[table["cluster"] == number], return_counts=True)[1]) / sizes[number]
        for number in range(5)
    ]
    assert shown(page) == np.lexsort((np.arange(5), -np.array(purity))).tolist()
    assert page.inner_text("#count") == "5 clusters"


def test_search_by_number_name_and_class(page, table):
    assert search(page, "3")[0] == 3
    assert search(page, "#3") == [3]
    hostile = [index for index, key in enumerate(table["key"]) if "onerror" in key]
    assert search(page, "onerror=alert") == table["cluster"][hostile].tolist()
    assert page.inner_text("#count") == "1 cluster, 1 image found"
    owls = table["cluster"][[key.startswith("owl/") for key in table["key"]]]
    found = search(page, "OWL")
    counts = np.bincount(owls, minlength=5)
    assert found == [x for x in np.lexsort((np.arange(5), -counts)).tolist() if counts[x]]
    assert page.inner_text("#count").endswith(", 20 images found")
    assert search(page, "nothing of that name") == []
    assert page.is_visible("#nothing")
    page.focus("#search")
    page.keyboard.press("Escape")
    assert len(shown(page)) == 5
    assert page.input_value("#sort") == "size"


def test_search_by_a_class_that_no_name_says(browser, root, tmp_path):
    table = tmp_path / "table.csv"
    paths = sorted((root / "pictures").rglob("*.png"))
    names = ["night bird" if path.parent.name == "owl" else "pet" for path in paths]
    lines = [f'"{path}",{name}' for path, name in zip(paths, names, strict=True)]
    table.write_text("path,label\n" + "\n".join(lines) + "\n")
    given = {"source": "manifest", "path": str(table)}
    written = atlas.write_atlas(root / "run/clusters", tmp_path / "out", images=given)
    with headless_browser.open_page(browser, written.page) as page:
        search(page, "night bird")
        assert page.inner_text("#count").endswith(", 20 images found")
        assert search(page, "#4") == [4]


def test_a_cluster_shows_all_its_images(page, root, table):
    number = int(np.bincount(table["cluster"]).argmax())
    page.click(f"#card-{number} a")
    page.wait_for_selector("#detail h2")
    assert page.inner_text("#detail h2") == f"Cluster {number}"
    members = table["cluster"] == number
    order = np.argsort(table["distance"][members], kind="stable")
    keys = table["key"][members][order].tolist()
    names = page.locator("#members .name").all_text_contents()
    assert names == keys
    for part in ("Nearest", "Median", "Farthest", "Borderline"):
        assert page.locator(f"section[aria-label={part}] li").count() == 12
    farthest = page.locator("section[aria-label=Farthest] .name").all_text_contents()
    assert farthest == keys[::-1][:12]
    # Every picture is the one of its name: each class has a tint of its own.
    for place in (0, len(keys) - 1):
        element = page.locator("#members .thumb").nth(place)
        element.scroll_into_view_if_needed()
        page.wait_for_timeout(200)
        theirs = np.asarray(Image.open(root / "pictures" / keys[place])).mean((0, 1))
        assert np.abs(mean_colour(element) - theirs).max() < 15
    page.locator("#members select").select_option("name")
    assert page.locator("#members .name").all_text_contents() == sorted(keys)


def test_keys_alone_will_do(page):
    first = shown(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus(f"#card-{first[0]} a")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail h2")
    page.keyboard.press("ArrowRight")
    expect(page).to_have_title(f"Cluster {first[1]} of run/clusters")
    page.locator("#members button").first.focus()
    page.keyboard.press("Enter")
    assert page.is_visible("#viewer dl")
    before = page.inner_text("#viewer dd >> nth=0")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#viewer dd >> nth=0") != before
    page.keyboard.press("Escape")
    assert not page.is_visible("#viewer")
    page.keyboard.press("Escape")
    page.wait_for_selector("#overview", state="visible")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"


def test_the_map_leads_to_a_cluster(page, table):
    page.wait_for_timeout(300)  # the map is drawn once its size is known
    number = int(np.bincount(table["cluster"]).argmax())
    x, y = page.evaluate(f"[mapX(numbers.centreX[{number}]), mapY(numbers.centreY[{number}])]")
    page.locator("#canvas").hover(position={"x": x, "y": y})
    assert f"Cluster {number}" in page.inner_text("#tip")
    page.click("[data-map=in]")
    page.click("[data-map=all]")
    page.locator("#canvas").click(position={"x": x, "y": y})
    page.wait_for_selector("#detail h2")
    assert page.inner_text("#detail h2") == f"Cluster {number}"


def test_two_clusterings(page, root):
    page.click("#to-compare")
    page.wait_for_selector("#comparison h2")
    other = np.load(root / "run/coarse/assignment.npy")
    ours = np.load(root / "run/clusters/assignment.npy")
    rows = page.locator("#comparison tbody tr")
    assert rows.count() == 5
    for row in rows.all():
        number, size, _ = row.locator("td").all_text_contents()
        parts = np.bincount(other[ours == int(number)], minlength=2)
        assert int(size) == parts.sum()
        said = row.locator(".stack").get_attribute("aria-label")
        assert said.startswith(f"{parts.argmax()} ")
    page.check("#comparison input")
    assert rows.count() == 2


def test_without_classes_and_without_a_map(browser, root, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((root / "pictures").rglob("*.png"))):
        shutil.copy(path, flat / f"{number:03d}.png")
    anew = atlas.write_atlas(root / "run/clusters", tmp_path / "anew", images=str(flat))
    labels = shutil.copytree(root / "run/pseudo_labels", tmp_path / "labels")
    pictures = str(root / "pictures")
    alone = atlas.write_atlas(labels, tmp_path / "alone", images=pictures)
    for written, has_classes, has_map in ((anew, False, True), (alone, True, False)):
        said = []
        with headless_browser.open_page(browser, written.page, said=said) as page:
            assert len(shown(page)) == 5
            assert page.is_visible("#map") == has_map
            assert page.locator("#sort option[value=purity]").count() == has_classes
            assert page.locator("#to-compare").count() == 0
            page.locator(".card a").first.click()
            page.wait_for_selector("#members li")
            page.locator("#members button").first.click()
            assert page.is_visible("#viewer dl")
        assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_screenshots(browser, path, tmp_path, scheme, width):
    said = []
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with headless_browser.open_page(browser, path, said=said, **options) as page:
        page.wait_for_timeout(500)
        pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        across = page.evaluate("document.documentElement.scrollWidth")
    assert said == []
    assert across <= width  # nothing is cut off
    is_dark = np.median(pixels) < 64
    assert is_dark == (scheme == "dark")
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
