"""PASCAL VOC devkits: which images, classes, boxes and subsets; and stages of several labels."""

import pickle

import numpy as np
import pytest
import support
from PIL import Image

from kt_jax.data import eval_batches, index_columns, open_images
from kt_jax.data.sources.voc import CLASSES, Voc
from kt_jax.runs import artifacts, files
from kt_jax.stages import linear, report, report_clusters

DOG, PERSON, CAT = (CLASSES.index(name) for name in ("dog", "person", "cat"))


def write_object(name, box="<bndbox>{}</bndbox>", difficult="<difficult>0</difficult>", rest=""):
    # VOC's own files have the corners in more than one order.
    corners = "<xmax>12</xmax><xmin>1.5</xmin><ymin>2</ymin><ymax>9.25</ymax>"
    return f"<object><name>{name}</name>{difficult}{box.format(corners)}{rest}</object>"


def write_annotation(root, name, *objects, text=None):
    if text is None:
        text = f"<annotation><filename>{name}.jpg</filename>{''.join(objects)}</annotation>"
    path = root / "Annotations" / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def write_images(root, *names):
    (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (16, 12), (number, 0, 0)).save(root / "JPEGImages" / f"{name}.jpg")


def write_lists(root, **lists):
    main = root / "ImageSets" / "Main"
    main.mkdir(parents=True, exist_ok=True)
    for name, ids in lists.items():
        (main / f"{name}.txt").write_text("".join(f"{each}\n" for each in ids.split()))


@pytest.fixture
def devkit(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2007"
    write_images(root, "000003", "000001", "000002", "000005", "unlisted")
    write_annotation(root, "000001", write_object("dog"), write_object("person"))
    hard = write_object("dog", difficult="<difficult>1</difficult>")
    easy = write_object("dog", difficult="<difficult/>")
    write_annotation(root, "000002", hard, easy, hard)
    write_annotation(root, "000003", hard, rest := write_object("cat", difficult=""), rest)
    write_annotation(root, "000005")
    write_annotation(root, "unlisted", write_object("dog"))
    write_lists(
        root, trainval="000001 000003", train="000001", val="000003", test="000002 000005 000004"
    )
    return root


def test_the_listed_images_and_what_they_show(devkit):
    images = open_images("voc", size=8, path=devkit)
    assert images.keys == tuple(f"JPEGImages/00000{i}.jpg" for i in (1, 2, 3, 5))
    assert images.origin == "VOC2007, all"
    assert images.class_names == CLASSES
    assert (len(CLASSES), CLASSES[0], CLASSES[14], CLASSES[19]) == (
        20, "aeroplane", "person", "tvmonitor",
    )  # fmt: skip
    assert (images.labels.dtype, images.labels.shape) == (np.int8, (4, 20))
    expected = np.full((4, 20), -1)
    expected[0, [DOG, PERSON]] = 1
    expected[1, DOG] = 1  # one of the three is not difficult
    expected[2, [DOG, CAT]] = 0, 1
    np.testing.assert_array_equal(images.labels, expected)
    assert [(each.key, each.reason) for each in images.excluded] == [
        ("JPEGImages/000004.jpg", "no such file")
    ]
    copy = pickle.loads(pickle.dumps(images))
    for i, red in enumerate([1, 2, 0, 3]):
        assert np.abs(copy[i].astype(int) - [red, 0, 0]).max() <= 1


def test_boxes_are_as_in_the_files(devkit):
    boxes = open_images("voc", size=8, path=devkit, subset="test").boxes
    assert boxes.to_pylist() == [
        {
            "index": 0, "class": DOG, "xmin": 1.5, "ymin": 2.0, "xmax": 12.0, "ymax": 9.25,
            "difficult": difficult, "truncated": False,
        }
        for difficult in (True, False, True)
    ]  # fmt: skip
    every = open_images("voc", size=8, path=devkit).boxes
    assert every["index"].to_pylist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert every["class"].to_pylist() == [DOG, PERSON, DOG, DOG, DOG, DOG, CAT, CAT]


def test_parts_are_no_objects_and_an_object_may_have_no_box(devkit):
    head = "<name>head</name><bndbox><xmin>1</xmin></bndbox>"
    part = f"<part>{head}<object>{head}</object></part>"
    truncated = "<truncated>1</truncated>"
    write_annotation(
        devkit, "000005", write_object("dog", rest=part + truncated), write_object("cat", box="")
    )
    images = open_images("voc", size=8, path=devkit)
    assert images.class_names == CLASSES
    assert np.flatnonzero(images.labels[3] == 1).tolist() == [CAT, DOG]
    boxes = [box for box in images.boxes.to_pylist() if box["index"] == 3]
    assert [(box["class"], box["truncated"]) for box in boxes] == [(DOG, True)]


def test_other_classes_follow_the_twenty(devkit):
    write_annotation(devkit, "000005", write_object("zebra"), write_object("Ape"))
    images = open_images("voc", size=8, path=devkit)
    assert images.class_names == (*CLASSES, "Ape", "zebra")
    assert images.labels[3].tolist() == [-1] * 20 + [1, 1]
    assert images.labels[0, 20:].tolist() == [-1, -1]


def test_the_lists_say_the_subsets(devkit):
    def keys(subset):
        images = open_images("voc", size=8, path=devkit, subset=subset)
        return [key[len("JPEGImages/00000") : -len(".jpg")] for key in images.keys]

    assert (keys("train"), keys("test")) == (["1", "3"], ["2", "5"])
    main = devkit / "ImageSets" / "Main"
    (main / "test.txt").unlink()
    assert (keys("train"), keys("test"), keys("all")) == (["1"], ["3"], ["1", "3"])
    write_lists(devkit, train="000001 000002 000003", val="000003 000001")
    assert (keys("train"), keys("test")) == (["2"], ["1", "3"])


@pytest.mark.parametrize("left", [["trainval"], ["test"], []])
def test_without_two_lists_that_divide_the_images_a_hash_does(devkit, left):
    for path in (devkit / "ImageSets" / "Main").glob("*.txt"):
        if path.stem not in left:
            path.unlink()
    write_images(devkit, "a", "000004")
    (devkit / "JPEGImages" / "b.heic").write_bytes(b"no")
    (devkit / "JPEGImages" / "notes.txt").write_text("no")
    for name in ("a", "000004"):
        write_annotation(devkit, name, write_object("dog"))
    opened = Voc(devkit)
    assert opened.entries.column_names == ["key", "bytes", "stamp"]
    names = {
        "trainval": ["000001", "000003"],
        "test": ["000002", "000004", "000005"],
        "": ["000001", "000002", "000003", "000004", "000005", "a", "unlisted"],
    }
    expected = [f"JPEGImages/{name}.jpg" for name in names["".join(left)]]
    assert opened.entries["key"].to_pylist() == expected
    assert [each.key for each in opened.refused] == ["JPEGImages/b.heic"]
    if not left:
        train, test = (open_images("voc", size=8, path=devkit, subset=s) for s in ("train", "test"))
        assert sorted(train.keys + test.keys) == expected


BOMB = '<!DOCTYPE a [<!ENTITY x "dog">]><annotation><object><name>&x;</name></object></annotation>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "broken XML: no element found"),
        ("<annotation><object>", "broken XML: no element found"),
        ("\0\1", "broken XML"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "broken XML: unknown encoding"),
        ('<?xml version="1.0" encoding="utf-32"?><annotation/>', "broken XML"),
        ("<annotation><object><name>&undefined;</name></object></annotation>", "undefined entity"),
        (BOMB, "document type"),
        (BOMB.encode("utf-16"), "document type"),
        ("<html/>", "no annotation: its root is <html>"),
        ("<annotation><object/></annotation>", "an object has no <name>"),
        (write_object(" "), "an object has no <name>"),
        (write_object("dog", "<bndbox><xmin>1</xmin></bndbox>"), "<ymin> of an object is ''"),
        (write_object("dog").replace("12", "nan"), "<xmax> of an object is 'nan'"),
        (write_object("dog").replace("12", "wide"), "<xmax> of an object is 'wide', but must be a"),
        (write_object("dog", difficult="<difficult>no</difficult>"), "<difficult> of an object"),
        (b" " * 10_000_001, "10,000,001 bytes are more than 10,000,000"),
    ],
    ids=range(16),
)
def test_what_is_no_annotation_is_a_reason(devkit, text, reason):
    if isinstance(text, str) and text.startswith("<object>"):
        text = f"<annotation>{text}</annotation>"
    write_annotation(devkit, "000002", text=text)
    images = open_images("voc", size=8, path=devkit)
    assert len(images) == len(images.labels) == 3
    excluded = {each.key: each.reason for each in images.excluded}
    assert sorted(excluded) == ["JPEGImages/000002.jpg", "JPEGImages/000004.jpg"]
    assert excluded["JPEGImages/000002.jpg"].startswith("Annotations/000002.xml: ")
    assert reason in excluded["JPEGImages/000002.jpg"]


def test_missing_annotations(devkit):
    annotations = devkit / "Annotations"
    (annotations / "000002.xml").unlink()
    (annotations / "000003.xml").unlink()
    (annotations / "000003.xml").mkdir()
    images = open_images("voc", size=8, path=devkit)
    assert [each.reason for each in images.excluded] == [
        "Annotations/000002.xml: no such file",
        "Annotations/000003.xml: not a regular file",
        "no such file",
    ]
    np.testing.assert_array_equal(images.labels[:, DOG], [1, -1])
    # None at all: a set without labels, such as a test set whose annotations are kept secret.
    annotations.rename(devkit / "elsewhere")
    images = open_images("voc", size=8, path=devkit)
    assert (len(images), images.labels, images.boxes, images.class_names) == (4, None, None, ())


def test_images_that_are_refused(devkit, monkeypatch):
    write_lists(devkit, test="000002 ../JPEGImages/000001")
    (devkit / "JPEGImages" / "000003.jpg").write_bytes(b"")
    monkeypatch.setattr("kt_jax.data.decode.MAX_BYTES", 6000)
    (devkit / "JPEGImages" / "000002.jpg").write_bytes(bytes(6001))
    images = open_images("voc", size=8, path=devkit)
    assert images.keys == ("JPEGImages/000001.jpg",)
    reasons = [each.reason for each in images.excluded]
    assert "unsafe name" in reasons[0]
    assert reasons[1:] == ["6,001 bytes are more than 6,000", "the file is empty (0 bytes)"]
    assert images.labels.shape == (1, 20)
    assert images.labels[0, DOG] == 1


def test_a_devkit_is_found(devkit, tmp_path):
    expected = open_images("voc", size=8, path=devkit)
    for source, path in (("voc", devkit.parent), ("auto", devkit), ("auto", devkit.parent)):
        images = open_images(source, size=8, path=path)
        assert (images.keys, images.fingerprint) == (expected.keys, expected.fingerprint)
    (tmp_path / "plain/JPEGImages").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "plain/JPEGImages/a.png")
    assert open_images("auto", size=8, path=tmp_path / "plain").labels is None
    with pytest.raises(ValueError, match="plain is no VOC devkit: neither it nor a folder in it"):
        open_images("voc", size=8, path=tmp_path / "plain")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        open_images("voc", size=8, path=tmp_path / "nowhere")
    write_images(devkit.parent / "VOC2012", "a")
    write_lists(devkit.parent / "VOC2012", train="a")
    with pytest.raises(ValueError, match="holds VOC2007, VOC2012: give the path of one of them"):
        open_images("auto", size=8, path=devkit.parent)
    (devkit / "ImageSets/Main/train.txt").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ValueError, match=r"train.txt cannot be read as .*'utf-8' .* UTF-8"):
        open_images("voc", size=8, path=devkit)


def test_lists_whose_names_are_in_capitals(devkit):
    lists = devkit / "ImageSets/Main"
    for path in list(lists.iterdir()):
        path.unlink()
    (lists / "TRAIN.TXT").write_text("000001\n")
    (lists / "TEST.TXT").write_text("000002\n")
    for subset, key in (("train", "JPEGImages/000001.jpg"), ("test", "JPEGImages/000002.jpg")):
        assert open_images("voc", size=8, path=devkit, subset=subset).keys == (key,)


def test_sets_of_several_labels_count_as_without_labels(devkit, tmp_path):
    images = open_images("voc", size=8, path=devkit)
    assert images.single_labels is None
    columns = index_columns(images)
    assert columns["label"].tolist() == [-1] * 4
    assert columns["label"].dtype == np.int32
    files.write_table(tmp_path / "index.parquet", columns)
    assert next(eval_batches(images, 2))["label"].shape == (2, 20)

    reason = "VOC2007, all is multi-label: several classes an image are not measured here"
    options = linear.Options(backbones=(), size=8)
    both = dict.fromkeys(("train_images", "test_images"), images)
    stage = support.make_stage(tmp_path / "probe", options, given={"backbones": ()}, images=both)
    assert linear.plan(options, stage.inputs).lines == (f"skipped: {reason}",)
    assert linear.run(stage) == (artifacts.Scores((), reason), {"skipped": reason})
    scores = files.read_json(tmp_path / "probe/scores.json")
    assert (scores["skipped"], scores["rows"]) == (reason, [])

    table = {
        "key": list(images.keys),
        "cluster": np.zeros(4, np.int32),
        "distance": np.zeros(4, np.float32),
    }
    files.write_table(tmp_path / "labels/labels.parquet", table)
    labels = support.finish(tmp_path / "labels", artifacts.Labels(4, 1, "", "VOC2007"))
    options = report.Options(images_per_cluster=4)
    stage = support.make_stage(tmp_path / "report", options, images={"images": images})
    (described,) = report_clusters.draw_labels(stage, [labels], [labels])
    assert (described["images"], described["labelled"]) == (4, 0)
    assert "nmi" not in described
    assert {row["majority"] for row in described["rows"]} == {""}


def test_single_labels_are_the_labels_of_one_class_an_image(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    images = open_images("folder", size=8, path=tmp_path)
    assert images.single_labels.tolist() == [0, 1]
    assert open_images("folder", size=8, path=tmp_path / "a").single_labels is None


def numbers_of(images):
    return [int(key[-6:-4]) for key in images.keys]


@pytest.mark.parametrize(
    ("lists", "train", "test"),
    [
        (["trainval", "test"], "trainval", "test"),
        (["train", "test"], "train", "test"),
        (["Train", "Test"], "Train", "Test"),
        (["TRAINVAL", "VAL2012"], "TRAINVAL", "VAL2012"),
        (["train", "valid"], "train", "valid"),
        (["training", "validation"], "training", "validation"),
        (["train_val", "test_set"], "train_val", "test_set"),
        (["trainval2012", "test2012", "night"], "trainval2012", "test2012"),
    ],
)
def test_lists_of_any_name_of_a_split(tmp_path, caplog, lists, train, test):
    names = [f"{i:02d}" for i in range(9)]
    write_images(tmp_path, *names)
    rows = dict(zip(lists, (names[:5], names[4:], names[7:8]), strict=False))
    write_lists(tmp_path, **{name: " ".join(those) for name, those in rows.items()})
    for subset, expected in (("all", range(9)), ("train", range(4)), ("test", range(4, 9))):
        images = open_images("voc", size=8, path=tmp_path, subset=subset)
        # An image that both lists name is never for training.
        assert numbers_of(images) == list(expected)
    assert not caplog.records


def test_lists_of_a_class_are_no_splits(tmp_path, caplog):
    write_images(tmp_path, "00", "01", "02", "03")
    write_lists(tmp_path, train="00 01", val="02")
    main = tmp_path / "ImageSets/Main"
    # Those of the class "train" are called as lists of splits are.
    for name in ("cat_train", "cat_test", "train_train", "train_val", "train_trainval"):
        (main / f"{name}.txt").write_text("00 -1\n03  1\n")
    assert numbers_of(open_images("voc", size=8, path=tmp_path)) == [0, 1, 2]
    # A list of a class that was renamed names images, whatever it says of them.
    (main / "train.txt").write_text("00 -1\n01  1\n03  0\n")
    assert numbers_of(open_images("voc", size=8, path=tmp_path, subset="train")) == [0, 1, 3]
    assert not caplog.records


def test_listed_images_have_the_extension_that_is_there(tmp_path):
    (tmp_path / "JPEGImages/deep").mkdir(parents=True)
    files = ["a.jpg", "b.png", "c.JPG", "d.jpeg", "e.v2.png", "f.png", "f.jpg", "g 1.png"]
    for number, name in enumerate([*files, "deep/h.png", "deep/i.bmp", "j.webp"]):
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(
            tmp_path / "JPEGImages" / name, "PNG" if name.endswith("G") else None
        )
    main = tmp_path / "ImageSets/Main"
    main.mkdir(parents=True)
    rows = ["a", "b 1", "c", "d.jpeg", "./e.v2", "f.png", "g 1", "deep/h", "gone", "k.png"]
    rows += ["/home/me/VOC/JPEGImages/deep/i", r"C:\VOC\JPEGImages\j.webp", "../x", "b.png", "l 0"]
    (main / "train.txt").write_text("\n".join(rows))
    images = open_images("voc", size=8, path=tmp_path)
    found = "a.jpg b.png c.JPG d.jpeg deep/h.png deep/i.bmp e.v2.png f.png g*1.png j.webp".split()
    assert images.keys == tuple(f"JPEGImages/{name}".replace("*", " ") for name in found)
    assert abs(images[1][0, 0, 0] - 20) <= 1
    assert [each.key for each in images.excluded] == [
        f"JPEGImages/{name}" for name in ("../x.jpg", "gone.jpg", "k.png", "l.jpg")
    ]


def test_lists_for_tests_without_annotations(devkit):
    write_lists(devkit, trainval="000001 000002 000003", val="000002", test="000005")
    assert open_images("voc", size=8, path=devkit, subset="test").keys[0].endswith("5.jpg")
    # As those of VOC 2012, whose annotations are kept secret: val is for tests then.
    (devkit / "Annotations/000005.xml").unlink()
    train, test = (open_images("voc", size=8, path=devkit, subset=s) for s in ("train", "test"))
    assert [key[-5] for key in train.keys + test.keys] == ["1", "3", "2"]


@pytest.mark.parametrize(
    ("lists", "named"),
    [
        (["ImageSets/Main/trainval.txt"], "ImageSets/Main/trainval.txt"),
        (["ImageSets/Main/test.txt"], "ImageSets/Main/test.txt"),
        (["ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt"], "ImageSets/Segm"),
        (["train.txt", "test.txt"], "test.txt"),
        (["ImageSets/Main/cat_train.txt", "ImageSets/Main/cat_val.txt"], "ImageSets/Main/cat_t"),
        (["ImageSets/Main/cats.txt"], ""),
    ],
)
def test_lists_that_are_not_used_are_named(tmp_path, caplog, lists, named):
    write_images(tmp_path, *(f"{i:02d}" for i in range(9)))
    for number, name in enumerate(lists):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("\n".join(f"{i:02d}" for i in range(number, 9, len(lists))))
    (tmp_path / "Annotations").mkdir()
    for subset in ("train", "test"):
        open_images("voc", size=8, path=tmp_path, subset=subset, holdout=0.5)
    texts = [each.getMessage() for each in caplog.records]
    if not named:
        assert texts == []
        return
    (text,) = texts
    assert text.startswith(f"{tmp_path.name}: {named}")
    assert "has the name of a split, but ImageSets/Main does not have a list for training" in text


def test_lists_next_to_the_folder_main(tmp_path):
    write_images(tmp_path, *(f"{i:02d}" for i in range(9)))
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/train.txt").write_text("00\n01")
    (tmp_path / "ImageSets/test.txt").write_text("02")
    assert numbers_of(open_images("auto", size=8, path=tmp_path, subset="train")) == [0, 1]
    assert numbers_of(open_images("auto", size=8, path=tmp_path, subset="test")) == [2]
