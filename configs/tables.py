"""The paper's questions as tables, in one run that shares teachers, features and clusters.

    python -m kt_jax.main --config=configs/tables.py:tiny --workdir=runs/tables-tiny
    python -m kt_jax.main --workdir=runs/tables \
        --config=configs/tables.py:cpu,imagenette2_128.zip,intel6_128.zip,voc12_animals_128.zip
    python -m kt_jax.main --workdir=runs/table-10 \
        --config=configs/tables.py:cpu:10,imagenette2_128.zip

Sizes: tiny (photographs that ship with scikit-image: everything runs, nothing is learned), cpu (64
px, about six hours on two cores), gpu (the paper's geometry; by their FLOPs its schedules take one
H100 25 minutes, and compiling takes half a minute to three for each network), paper (the paper's
schedules too). cpu:10 makes Table 10 alone, cpu:3+4+9 three tables, cpu:tasks those of pretext
tasks, cpu:labels the one about the labels of CC + AlexNet: only what they need runs, with the same
figures as in a run of all tables. After the size come the main set of images, a second set with
other classes, and a set with several classes an image. Without the second set there are no Tables 2
and 5. Without the third, networks are fine-tuned on the classes of the main set. The report holds
all tables, as do its tables.md and tables.json; for the figures see docs/tables.md.
"""

from types import SimpleNamespace

from ml_collections import ConfigDict

SIZES = ("tiny", "cpu", "gpu", "paper")
CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5")
NOT_COMPARABLE = "other images, sizes and schedules"
CC, CC_ALEXNET, ALONE = "CC + VGG Jigsaw++", "CC + AlexNet Jigsaw++", "Jigsaw++ alone"
RANDOM, TRUE, NO_TEACHER = "Random", "True labels", "CC of random labels"
# The paper's figures by layer, in per cent: ImageNet linear, Places linear, ImageNet non-linear.
TABLE_4 = {
    RANDOM: (11.6, 17.1, 16.9, 16.3, 14.1),
    ALONE: (18.2, 28.7, 34.1, 33.2, 28.0),
    CC_ALEXNET: (18.9, 30.5, 35.7, 35.4, 32.2),
    CC: (19.2, 32.0, 37.3, 37.1, 34.6),
    TRUE: (19.3, 36.3, 44.2, 48.3, 50.5),
}
TABLE_6 = {
    RANDOM: (48.5, 41.0, 34.8, 27.1, 12.0),
    ALONE: (54.7, 52.9, 50.3, 46.1, 35.4),
    CC_ALEXNET: (55.3, 52.2, 51.4, 47.6, 41.1),
    CC: (55.9, 55.1, 52.4, 49.5, 43.9),
}


def get_config(arg: str = "tiny") -> ConfigDict:
    """Arg: SIZE; or SIZE,MAIN; or SIZE,MAIN,SECOND; or SIZE,MAIN,SECOND,SEVERAL.

    SIZE may be followed by the tables to make: ":4", ":1+10" or ":tasks".
    """
    size, *paths = arg.split(",")
    size, _, wanted = size.partition(":")
    if size not in SIZES or len(paths) > 3:
        raise ValueError(
            f"configs/tables.py:{arg}: give a size ({', '.join(SIZES)}), then up to three paths"
        )
    if size != "tiny" and not paths:
        raise ValueError(
            f"configs/tables.py:{arg}: {size} needs images, such as "
            f"configs/tables.py:{size},/path/to/images"
        )
    study = Study(choose_scale(size), make_images(size, paths))
    rows = learn_main_rows(study)
    ask_clusters(study, rows)
    if "second" in study.config.images:
        ask_data_sets(study, rows)
    ask_layers(study, rows)
    ask_shortcuts(study, rows)
    ask_tasks(study, rows)
    ask_labels(study, rows)
    ask_options(study, rows)
    evaluate(study, rows)
    if wanted:
        keep_tables(study, wanted.split("+"))
    study.add("report", "report", test_images="test")
    study.config.stages = tuple(study.stages)
    return study.config


def make_images(size: str, paths: list[str]) -> dict:
    """Sources by name: train and test; second and second_test; several and several_test."""
    px = 256 if size in ("gpu", "paper") else 64 if size == "cpu" else 48
    if not paths:
        views = {"source": "photographs", "size": px, "share": (0.4, 1.0)}
        many, few = ({"views_per_photograph": count} for count in (8, 4))
        train, test = ({"subset": name} for name in ("train", "test"))
        return {
            "train": {**views, **train, **many, "seed": 0},
            "test": {**views, **test, **few, "seed": 0},
            "second": {**views, **train, **many, "seed": 1},
            "second_test": {**views, **test, **few, "seed": 1},
        }
    images = {}
    for path, names in zip(
        paths, (("train", "test"), ("second", "second_test"), ("several", "several_test")),
        strict=False,
    ):  # fmt: skip
        for name, subset in zip(names, ("train", "test"), strict=True):
            images[name] = {"source": "auto", "path": path, "size": px, "subset": subset}
    return images


def choose_scale(size: str) -> SimpleNamespace:
    """Networks, schedules and counts."""

    def by_size(tiny, cpu, gpu, paper):
        return {"tiny": tiny, "cpu": cpu, "gpu": gpu, "paper": paper}[size]

    training = {
        "log_every": by_size(2, 50, 50, 100),
        "checkpoint_every": by_size(2, 500, 500, 5_000),
        "optimizer": {"learning_rate": 0.05, "warmup": by_size(1, 100, 100, 1_000)},
    }
    falling = {**training["optimizer"], "schedule": "cosine", "drop_every": 0}
    full = (96, 256, 384, 384, 256)
    alexnet = {
        "name": "alexnet",
        "channels": by_size((4, 8, 8, 8, 4), (32, 64, 96, 96, 64), full, full),
        "batch_norm": True,
        "stem_kernel": by_size(5, 7, 11, 11),
    }
    vgg = {
        "name": "vgg",
        "channels": by_size((4, 8), (24, 48, 96), (64, 128, 256, 512), (64, 128, 256, 512)),
        "convs": by_size((1, 1), (2, 2, 2), (2, 2, 3, 3), (2, 2, 3, 3)),
        "batch_norm": True,
        "final_pool": False,
    }
    puzzles = {
        "crop": by_size(48, 63, 255, 255),
        "tile": by_size(12, 16, 64, 64),
        "jitter": by_size(3, 4, 18, 18),
        "channel_shift": by_size(1, 1, 2, 2),
        "mirror": by_size(True, True, False, False),
    }
    stride, side = by_size(2, 2, 4, 4), by_size(48, 64, 227, 227)
    return SimpleNamespace(
        seeds=range(by_size(1, 3, 1, 3)),
        # gpu: for as many images as cpu, about ten thousand.
        k=by_size(4, 100, 100, 2_000),
        # Table 1, in parts of k.
        counts=by_size((0.5,), (0.25, 0.5, 2, 4), (0.25, 0.5, 2, 4), (0.25, 0.5, 2.5, 5)),
        side=side,
        view=by_size(48, 64, 255, 255),
        stride=stride,
        vgg=vgg,
        # The teacher's, from below; the last is clustered.
        blocks=by_size(
            ("conv1_1", "conv2_1"),
            ("conv1_2", "conv2_2", "conv3_2"),
            ("conv2_2", "conv3_3", "conv4_3"),
            ("conv2_2", "conv3_3", "conv4_3"),
        ),
        # On tiles half the stride that it has on whole images, as the authors'.
        alexnet_of_tiles={**alexnet, "stem_stride": stride // 2},
        puzzles=puzzles,
        pretext={
            **training,
            "batch_size": by_size(8, 64, 256, 256),
            "steps": by_size(2, 1_500, 1_000, 350_000),
            "puzzles": puzzles,
            "permutations": {"count": by_size(5, 100, 701, 701)},
            "backbone": vgg,
            "head": {
                "fc6": by_size(4, 128, 1_024, 1_024),
                "fc7": by_size(8, 512, 4_096, 4_096),
                "dropout": by_size(0.0, 0.0, 0.0, 0.5),
            },
        },
        short=by_size(2, 500, 300, 70_000),
        student={
            **training,
            "batch_size": by_size(16, 128, 256, 256),
            "steps": by_size(2, 1_100, 1_500, 450_000),
            "size": side,
            "backbone": {**alexnet, "stem_stride": stride},
            "head": {"hidden": by_size((8,), (512,), (1_024,), None), "batch_norm": True},
        },
        dims=by_size(8, 256, 256, 256),
        regression={
            "targets": "regression",
            "regression_dims": by_size(8, 256, 256, 256),
            "optimizer": {**training["optimizer"], "learning_rate": 0.5},
        },
        probe={"size": side, "max_dims": by_size(64, 2_400, 2_400, 9_600)},
        amounts=by_size((2,), (10, 50, 100), (10, 50, 100), (10, 50, 100)),
        # Of Imagenette's 950 images a class, these would be 10 and 95 again.
        shares=by_size((), (), (0.01, 0.1), (0.01, 0.1)),
        tuning={
            **training,
            "batch_size": by_size(8, 32, 64, 64),
            "steps": by_size(2, 300, 500, 80_000),
            "size": side,
            "head": {"hidden": by_size((8,), (256,), (1_024,), None), "batch_norm": True},
        },
        # Krahenbuhl's schedule at paper passes 255 times over VOC 2007; the shorter ones, 20 times.
        several=by_size(
            {},
            {"steps": 1_500, "optimizer": falling},
            {"steps": 1_500, "optimizer": falling},
            {"steps": 80_000, "batch_size": 16, "optimizer": {}},
        ),
        frozen=by_size(("conv3",), ("conv3", "conv5"), CONVS, CONVS),
    )


class Study:
    """A config that grows stage by stage, the tables that it will have, and what they ask of."""

    def __init__(self, scale: SimpleNamespace, images: dict) -> None:
        self.scale, self.config = scale, ConfigDict({"images": images})
        self.stages: list[str] = []
        self.tables: dict[str, dict] = {}
        # What `linear` evaluates, by stage: a long one would repeat more after an interruption.
        self.probed: dict[str, list[str]] = {"main": [], "more": [], "options": []}

    def add(self, name, kind, **section):
        """A stage."""
        self.config[name] = {"kind": kind, **section}
        self.stages.append(name)
        return name

    def see(self, name, teacher, **options):
        """Features of a network."""
        given = {"layer": self.scale.blocks[-1], "size": self.scale.view, **options}
        return self.add(f"features_{name}", "features", backbone=teacher, **given)

    def learn(self, name, **section):
        """A student."""
        return self.add(f"student_{name}", "classify", **{**self.scale.student, **section})

    def transfer(self, name, features, *, student=None, label=None, held_out=False, **kmeans):
        """k-means of features, the labels that it gives the training images, and their student.

        Returns the four stages, the student first.
        """
        kmeans, student = {"k": self.scale.k, **kmeans}, dict(student or {})
        clusters = self.add(f"clusters_{name}", "clusters", features=features, **kmeans)
        labels = self.add(f"labels_{name}", "label", clusters=clusters, **(label or {}))
        if held_out:
            tested = self.add(f"held_out_{name}", "label", clusters=clusters, images="test")
            student |= {"held_out_labels": tested, "held_out_images": "test"}
        return self.learn(name, labels=labels, **student), features, clusters, labels

    def table(self, name, title, rows, columns, **section):
        """A table of linear classifiers, unless told otherwise."""
        given = {"title": title, "rows": rows, "columns": columns}
        self.tables[name] = {**given, "scores": ("linear_main", "linear_more"), **section}


def by_layer(paper: dict, layers=CONVS) -> dict:
    """The paper's figures by row and layer."""
    return {
        name: {layer: x for layer, x in zip(CONVS, figures, strict=True) if layer in layers}
        for name, figures in paper.items()
    }


def flatten(rows: dict) -> tuple[str, ...]:
    """What any row names, once."""
    named = ((some,) if isinstance(some, str) else some for some in rows.values())
    return tuple(dict.fromkeys(name for names in named for name in names))


def learn_main_rows(study: Study) -> dict:
    """The networks of Table 4 by row, a seed each: every stage draws by its name."""
    scale = study.scale
    rows: dict[str, list[str]] = {name: [] for name in (RANDOM, ALONE, CC_ALEXNET, CC)}
    for seed in scale.seeds:
        for name, title, backbone, layer in (
            ("vgg", CC, scale.vgg, scale.blocks[-1]),
            ("alexnet", CC_ALEXNET, scale.alexnet_of_tiles, "conv4"),
        ):
            section = {**scale.pretext, "backbone": backbone}
            teacher = study.add(f"jigsaw_{name}_{seed}", "pretext", **section)
            features = study.see(f"{name}_{seed}", teacher, layer=layer)
            # Table 7 compares the layers of the first teacher.
            compared = {"held_out": True, "stability": 2} if name == "vgg" and not seed else {}
            student, *_ = study.transfer(f"{name}_{seed}", features, **compared)
            rows[title].append(student)
        rows[ALONE].append(f"jigsaw_alexnet_{seed}")
    # One: an evaluation draws the same random weights for the same architecture.
    rows[RANDOM].append("random:student_vgg_0")
    for of, title, count in (("classes", TRUE, {}), ("random", NO_TEACHER, {"k": scale.k})):
        labels = study.add(f"labels_{of}", "control_labels", of=of, **count)
        rows[title] = [study.learn(of, labels=labels)]
    for of, title in (("hog_colour", "CC + HOG"), ("pixels", "CC + pixels")):
        features = study.add(f"features_{of}", "descriptors", of=of, size=scale.view)
        rows[title] = [study.transfer(of, features)[0]]
    features = study.see("random_vgg", "random:jigsaw_vgg_0")
    rows["CC + random VGG"] = [study.transfer("random_vgg", features)[0]]
    rows["HOG with colours"], rows["pixels"] = ["hog_colour"], ["pixels"]
    networks = [name for name in flatten(rows) if name not in ("hog_colour", "pixels")]
    study.probed["main"] += [*networks, *(f"jigsaw_vgg_{seed}" for seed in scale.seeds)]
    study.table(
        "table_4",
        "Table 4: linear classifiers of frozen layers",
        rows,
        (*CONVS, "chosen"),
        paper=by_layer(TABLE_4),
        comparable=NOT_COMPARABLE,
        claims={
            "CC > Jigsaw++ alone, conv5": (CC_ALEXNET, ALONE, "conv5", 4.2),
            "CC > Jigsaw++ alone, conv4": (CC_ALEXNET, ALONE, "conv4", 2.2),
            "CC > Jigsaw++ alone, conv3": (CC_ALEXNET, ALONE, "conv3", 1.6),
            "a VGG teacher > an AlexNet, conv5": (CC, CC_ALEXNET, "conv5", 2.4),
            "a VGG teacher > an AlexNet, conv4": (CC, CC_ALEXNET, "conv4", 1.7),
            "a VGG teacher > an AlexNet, conv3": (CC, CC_ALEXNET, "conv3", 1.6),
            "Jigsaw++ alone > random weights, conv5": (ALONE, RANDOM, "conv5", 13.9),
            "Jigsaw++ alone > random weights, conv3": (ALONE, RANDOM, "conv3", 17.2),
            "CC > random weights, conv5": (CC, RANDOM, "conv5", 20.5),
            "CC > random labels, conv5": (CC, NO_TEACHER, "conv5", None),
            "a VGG teacher > HOG, conv5": (CC, "CC + HOG", "conv5", 5.5),
            "a VGG teacher > pixels, conv5": (CC, "CC + pixels", "conv5", None),
            "a VGG teacher > a random VGG, conv5": (CC, "CC + random VGG", "conv5", None),
            "CC > HOG with colours, best layer": (CC, "HOG with colours", "chosen", None),
        },
    )
    return rows


def ask_clusters(study: Study, rows: dict) -> None:
    """Table 1: the number of clusters, with the first teacher."""
    students = {study.scale.k: rows[CC][0]}
    for part in study.scale.counts:
        k = round(part * study.scale.k)
        students[k], *_ = study.transfer(f"k{k}", "features_vgg_0", k=k)
        study.probed["more"].append(students[k])
    named = {f"k = {k}": student for k, student in sorted(students.items())}
    study.table(
        "table_1",
        "Table 1: the number of clusters",
        named,
        ("conv3", "conv4", "conv5", "chosen"),
        claims={
            f"{name} is as good as k = {study.scale.k}, conv5, within 2 points": (
                f"k = {study.scale.k}", name, "conv5", None, 2.0,
            )
            for name in named if name != f"k = {study.scale.k}"
        },
    )  # fmt: skip


def ask_data_sets(study: Study, rows: dict) -> None:
    """Tables 2 and 5: other images to cluster and to label; other classes to tell."""
    from_second = study.see("second", "jigsaw_vgg_0", images="second")
    labels = study.add("labels_to_second", "label", clusters="clusters_vgg_0", images="second")
    both = "clusters and labels of the main set"
    crossed = {
        both: rows[CC][0],
        "clusters of the main set, labels of the second": study.learn(
            "to_second", labels=labels, images="second"
        ),
        "clusters of the second set, labels of the main": study.transfer(
            "from_second", from_second
        )[0],
    }
    study.probed["more"] += [*crossed.values()][1:]
    study.table(
        "table_2",
        "Table 2: other images to cluster and to label",
        crossed,
        ("conv3", "conv4", "conv5", "chosen"),
        claims={f"{both} > {name}, conv5": (both, name, "conv5", None) for name in [*crossed][1:]},
    )
    networks = {name: rows[name][0] for name in (RANDOM, ALONE, CC_ALEXNET, CC, TRUE, "CC + HOG")}
    study.add(
        "linear_second",
        "linear",
        backbones=tuple(networks.values()),
        train_images="second",
        test_images="second_test",
        **study.scale.probe,
    )
    networks |= {"HOG with colours": "hog_colour", "pixels": "pixels"}
    study.table(
        "table_5",
        "Table 5: linear classifiers on a second set",
        networks,
        (*CONVS, "chosen"),
        scores=("linear_second",),
        paper={CC: {"conv3": 37.5}},
        comparable=NOT_COMPARABLE,
        claims={
            "CC > Jigsaw++ alone, conv5": (CC_ALEXNET, ALONE, "conv5", None),
            "a VGG teacher > an AlexNet, conv5": (CC, CC_ALEXNET, "conv5", None),
            "CC > random weights, conv5": (CC, RANDOM, "conv5", None),
        },
    )


def ask_layers(study: Study, rows: dict) -> None:
    """Table 7: which layer to cluster; does a score without labels find it?"""
    scale = study.scale
    layers: dict[str, tuple[str, ...]] = {}
    *earlier, last = scale.blocks
    for layer in earlier:
        features = study.see(layer, "jigsaw_vgg_0", layer=layer)
        layers[layer] = study.transfer(layer, features, held_out=True, stability=2)
        study.probed["more"].append(layers[layer][0])
    layers[last] = (rows[CC][0], "clusters_vgg_0")
    study.table(
        "table_7",
        "Table 7: the layer of the teacher that is clustered",
        layers,
        ("stability", "held-out pseudo-labels", "conv4", "conv5", "chosen"),
        stages=flatten(layers),
        facts={"stability": "stability", "held-out pseudo-labels": "label_accuracy"},
        claims={f"{last} > {layer}, conv5": (last, layer, "conv5", None) for layer in earlier},
    )
    study.table(
        "table_7b",
        "Table 7, continued: linear classifiers of the teacher's layers",
        {"VGG Jigsaw++": [f"jigsaw_vgg_{seed}" for seed in scale.seeds]},
        (*scale.blocks, "chosen"),
    )


def ask_shortcuts(study: Study, rows: dict) -> None:
    """Table 8: solvers of puzzles without one of the measures against shortcuts."""
    scale = study.scale
    shift = scale.puzzles["channel_shift"]
    changes = {
        "all measures": {},
        "no gaps": {"crop": 3 * (scale.puzzles["tile"] + shift), "jitter": 0},
        "no grey, no channel shift": {"grey": 0.0, "channel_shift": 0},
        "no standardised tiles": {"normalise": "image"},
        "no tiles of other images": {"max_occluders": 0},
    }
    solvers = {}
    for number, (name, changed) in enumerate(changes.items()):
        rules = {**scale.puzzles, **changed}
        section = {**scale.pretext, "steps": scale.short, "puzzles": rules}
        solvers[name] = (study.add(f"shortcuts_{number}", "pretext", **section),)
    study.probed["more"] += flatten(solvers)
    complete, *others = solvers
    study.table(
        "table_8",
        f"Table 8: shortcuts, after {scale.short:,} steps",
        solvers,
        ("puzzles solved", *scale.blocks, "chosen"),
        stages=flatten(solvers),
        facts={"puzzles solved": "puzzle_accuracy"},
        claims={
            f"{complete} > {name}, {scale.blocks[-1]}": (complete, name, scale.blocks[-1], None)
            for name in others
        },
    )


def ask_tasks(study: Study, rows: dict) -> None:
    """Other pretext tasks of the same VGG, and students of their clusters."""
    scale = study.scale
    rules = {
        "jigsaw": {**scale.puzzles, "max_occluders": 0},
        "context": {x: y for x, y in scale.puzzles.items() if x != "max_occluders"},
        "rotation": {"crop": scale.view},
        "jigsaw+rotation": scale.puzzles,
    }
    learned = {"Jigsaw++": (rows[CC][0],)}
    teachers = {"Jigsaw++": ("jigsaw_vgg_0",)}
    for task, puzzles in rules.items():
        name = task.replace("+", "_")
        section = {**scale.pretext, "task": task, "puzzles": puzzles}
        if "jigsaw" not in task:
            del section["permutations"]
        teacher = study.add(name, "pretext", **section)
        title = {"jigsaw": "Jigsaw", "jigsaw+rotation": "Jigsaw++ and rotation"}.get(task, task)
        teachers[title] = (teacher,)
        learned[title] = study.transfer(name, study.see(name, teacher))[:1]
    study.probed["more"] += [*flatten(teachers)[1:], *flatten(learned)[1:]]
    study.table(
        "tasks",
        "Pretext tasks: students of their clusters",
        learned,
        ("conv3", "conv4", "conv5", "chosen"),
        claims={
            f"Jigsaw++ > {name}, conv5": ("Jigsaw++", name, "conv5", None)
            for name in [*learned][1:]
        },
    )
    study.table(
        "tasks_teachers",
        "Pretext tasks: the teachers themselves",
        teachers,
        ("examples solved", *scale.blocks, "chosen"),
        stages=flatten(teachers),
        facts={"examples solved": "puzzle_accuracy"},
    )


def ask_labels(study: Study, rows: dict) -> None:
    """Does CC + AlexNet lack good clusters? The same teacher and student, with better ones."""
    scale, teacher = study.scale, "jigsaw_alexnet_0"
    features = study.see("alexnet_better", teacher, layer="conv4", views=10, calibrate=True)
    student, *_ = study.transfer("alexnet_better", features, dims=scale.dims, whiten=True)
    better = "CC + AlexNet, ten views, calibrated, whitened"
    asked = {ALONE: teacher, CC_ALEXNET: rows[CC_ALEXNET][0], better: student}
    study.add("linear_labels", "linear", backbones=tuple(asked.values()), **scale.probe)
    study.table(
        "labels",
        "The clusters of CC + AlexNet",
        asked,
        (*CONVS, "chosen"),
        scores=("linear_labels",),
        claims={
            f"{better} > {name}, {layer}": (better, name, layer, None)
            for name in (ALONE, CC_ALEXNET) for layer in ("conv3", "conv4", "conv5")
        },
    )  # fmt: skip


def ask_options(study: Study, rows: dict) -> None:
    """Table 10: what is not the paper's, one by one and together, and what it costs."""
    scale, teacher = study.scale, "jigsaw_vgg_0"
    plain = (rows[CC][0], "features_vgg_0", "clusters_vgg_0", "labels_vgg_0")
    whitened = {"dims": scale.dims, "whiten": True}
    views = study.see("views", teacher, views=10)
    calibrated = study.see("calibrated", teacher, calibrate=True)
    both = study.see("both", teacher, views=10, calibrate=True)
    joined = study.see("joined", teacher, layer="+".join(scale.blocks[-2:]))
    better = study.transfer("better", both, **whitened)
    soft = {"label": {"nearest": min(10, scale.k)}, "student": {"targets": "soft"}}
    crops = {"small_crops": 1, "small_size": scale.side // 2}
    more = {"steps": 2 * scale.student["steps"]}

    def again(name, of, **section):
        """Another student of the same labels."""
        return (study.learn(name, labels=of[3], **section), *of[1:])

    def regress(name, features, **section):
        section = {**scale.regression, **section}
        return study.learn(name, features=features, **section), features

    tried = {
        "as the paper": plain,
        "ten views": study.transfer("views", views),
        "calibrated": study.transfer("calibrated", calibrated),
        "whitened": study.transfer("whitened", "features_vgg_0", **whitened),
        "ten views, calibrated, whitened": better,
        "two layers, whitened": study.transfer("joined", joined, **whitened),
        "balanced": study.transfer("balanced", "features_vgg_0", balanced=True),
        "soft targets": study.transfer("soft", "features_vgg_0", **soft),
        "a small crop": again("crops", plain, **crops),
        "average of the student": again("average", plain, ema=0.98),
        "regression": regress("regression", "features_vgg_0"),
        "regression, ten views, calibrated": regress("regression_both", both),
        "twice the steps": again("long", plain, **more),
        "twice the steps, ten views, calibrated, whitened": again("long_better", better, **more),
        "twice the steps, regression, ten views, calibrated": regress(
            "long_regression", both, **more
        ),
    }
    students = {name: some[:1] for name, some in tried.items()}
    study.probed["options"] += flatten(students)[1:]
    named = ("jigsaw_vgg_0", *flatten(students), f"random:{rows[CC][0]}")
    study.add("knn", "knn", backbones=named, **scale.probe)
    study.table(
        "table_10",
        "Table 10: options that are not the paper's, one by one and together",
        {
            **tried,
            "the teacher": (teacher,),
            "random weights": (f"random:{rows[CC][0]}",),
            "HOG with colours": ("hog_colour",),
        },
        ("conv3", "conv4", "conv5", "chosen", "kNN", "time"),
        scores=("linear_main", "linear_options", "knn"),
        protocols={"kNN": "knn"},
        stages=(*flatten(tried), teacher),
        facts={"time": "seconds"},
        claims={
            f"{name} > as the paper, conv5": (name, "as the paper", "conv5", None)
            for name in [*tried][1:]
        },
    )


def evaluate(study: Study, rows: dict) -> None:
    """The evaluations, and the tables, which read them."""
    scale = study.scale
    for name, networks in study.probed.items():
        study.add(f"linear_{name}", "linear", backbones=tuple(networks), **scale.probe)
    first = {name: rows[name][0] for name in (RANDOM, ALONE, CC_ALEXNET, CC, TRUE)}
    study.add(
        "few_shot",
        "few_shot",
        backbones=(*first.values(), "jigsaw_vgg_0"),
        per_class=scale.amounts,
        shares=scale.shares,
        **scale.probe,
    )
    study.table(
        "table_9",
        "Table 9: few labels",
        {**first, "VGG Jigsaw++, the teacher": "jigsaw_vgg_0", "HOG with colours": "hog_colour",
         "pixels": "pixels"},
        (
            *(f"{count} a class" for count in scale.amounts),
            *(f"{100 * share:g} % of each class" for share in scale.shares),
        ),
        scores=("few_shot",),
        protocol="few_shot",
        claims={
            f"CC > HOG with colours, {count} a class": (
                CC, "HOG with colours", f"{count} a class", None,
            )
            for count in scale.amounts
        },
    )  # fmt: skip
    # The authors' stride on whole images, for the network that solved puzzles too.
    tuning = {
        **scale.tuning,
        "backbones": tuple(first.values()),
        "backbone": {"stem_stride": scale.stride},
    }
    pairs = {
        "CC > Jigsaw++ alone": (CC_ALEXNET, ALONE, 0.1),
        "a VGG teacher > an AlexNet": (CC, CC_ALEXNET, 2.6),
        "Jigsaw++ alone > random weights": (ALONE, RANDOM, 16.5),
    }
    if "several" in study.config.images:
        images = {"train_images": "several", "test_images": "several_test"}
        given = {**tuning, **scale.several, **images, "crops": 10, "least_positives": 20}
        study.add("voc_all", "voc07_classification", train="all", **given)
        study.add("voc_fc", "voc07_classification", train="fc6-8", **given)
        study.table(
            "table_3",
            "Table 3: classification of several classes an image, mean average precision",
            first,
            ("all", "fc6-8"),
            scores=("voc_all", "voc_fc"),
            protocol="voc07_classification",
            paper={RANDOM: {"all": 53.3}, ALONE: {"all": 69.8}, CC_ALEXNET: {"all": 69.9},
                   CC: {"all": 72.5}, TRUE: {"all": 79.9}},
            comparable=NOT_COMPARABLE,
            claims={
                f"{name}, {part}": (*two, part, points if part == "all" else None)
                for name, (*two, points) in pairs.items() for part in ("all", "fc6-8")
            },
        )  # fmt: skip
    else:
        study.add("fine_tune", "fine_tune", **tuning)
        study.table(
            "table_3",
            "Table 3: fine-tuning on the classes of the main set",
            first,
            ("all",),
            scores=("fine_tune",),
            protocol="fine_tune",
            claims={name: (*two, "all", None) for name, (*two, _) in pairs.items()},
        )
    study.add("nonlinear", "nonlinear", layers=scale.frozen, **tuning)
    study.table(
        "table_6",
        "Table 6: frozen up to a layer, the rest learned with labels",
        first,
        scale.frozen,
        scores=("nonlinear",),
        protocol="nonlinear",
        paper=by_layer(TABLE_6, scale.frozen),
        comparable=NOT_COMPARABLE,
        claims={
            f"{name}, {layer}": (*two, layer, None)
            for name, (*two, _) in pairs.items() for layer in scale.frozen
        },
    )  # fmt: skip
    order = (
        "table_1", "table_2", "table_3", "table_4", "table_5", "table_6", "table_7", "table_7b",
        "table_8", "table_9", "table_10", "tasks", "tasks_teachers", "labels",
    )  # fmt: skip
    for name in order:
        if name in study.tables:
            study.add(name, "table", **study.tables[name])


def keep_tables(study: Study, wanted: list[str]) -> None:
    """Deletes the tables that are not wanted, and the stages that only they need."""
    config = study.config
    # "table_7b" is part of Table 7, as "tasks_teachers" is of the tasks.
    numbers = {
        name: name.removeprefix("table_").removesuffix("b").split("_")[0] for name in study.tables
    }
    for number in wanted:
        if number not in numbers.values():
            raise ValueError(
                f"configs/tables.py: there is no table {number!r} of these images: the tables are "
                f"{', '.join(sorted(set(numbers.values()), key=lambda x: (len(x), x)))}"
            )
    rows = {
        name: set(flatten(study.tables[name]["rows"]))
        for name, number in numbers.items()
        if number in wanted
    }
    subjects = set().union(*rows.values())
    for stage in study.stages:
        if "backbones" in config[stage]:
            config[stage].backbones = tuple(x for x in config[stage].backbones if x in subjects)
    for name, of_table in rows.items():
        config[name].scores = tuple(
            stage for stage in config[name].scores if of_table & set(config[stage].backbones)
        )
    needed, found = set(), set(rows)
    while found:
        needed |= found
        found = {x for name in found for x in read_names(study, name)} - needed
    for stage in set(study.stages) - needed:
        del config[stage]
    study.stages = [stage for stage in study.stages if stage in needed]


def read_names(study: Study, stage: str) -> set[str]:
    """The stages that a stage reads."""
    read: set[str] = set()
    for value in study.config[stage].values():
        names = (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ()
        read |= {x.removeprefix("random:") for x in names if isinstance(x, str)}
    return read & set(study.stages)
