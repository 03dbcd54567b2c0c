"""Kinds of stages that write one line at once, and configs of them."""

import types
from dataclasses import dataclass, field

from kt_jax.runs import artifacts, files, options
from kt_jax.runs.stage import Plan


@dataclass(frozen=True, kw_only=True)
class Nested:
    """Options of options."""

    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every fake kind, which reads artifacts of all types."""

    reads: tuple[str, ...] = options.reads(default=())
    value: int = 0
    nested: Nested = field(default=Nested())
    log_every: int = options.incidental(10)


class Fake(types.ModuleType):
    """A kind that writes its value and what it read, and remembers the stages that it ran."""

    Options = Options

    def __init__(self, about=None):
        super().__init__("fake")
        self.about = about or artifacts.Sweep(rows=1)
        self.GIVES = type(self.about)
        self.stages = []
        self.fail = False

    @property
    def runs(self):
        return len(self.stages)

    def run(self, stage):
        self.stages.append(stage)
        read = [(each / "out.json").read_text() for each in stage.inputs.artifacts["reads"]]
        if self.fail:
            raise KeyboardInterrupt
        files.write_json(stage.directory / "out.json", [stage.options.value, read])
        return self.about, {"rows": 1}

    def plan(self, chosen, inputs):
        if chosen.value < 0:
            raise ValueError(f"{inputs.origin}.value is below 0")
        read = [each.about for each in inputs.artifacts["reads"]]
        return Plan(self.about, (f"value {chosen.value}, reads {len(read)}",))


def make_config(**sections):
    """A config of these stages and no others."""
    return {"seed": 0, "images": {}, **sections}
