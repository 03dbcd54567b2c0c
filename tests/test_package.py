"""The package: its citation, the versions that CI tries, and help that answers at once."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from kt_jax import commands

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    paper = citation["preferred-citation"]
    assert paper["authors"][0]["family-names"] == "Noroozi"
    assert (paper["year"], paper["url"]) == (2018, "https://arxiv.org/abs/1805.00385")


def test_ci_tries_every_python_that_is_named():
    said = " ".join(PROJECT["classifiers"])
    for name, command in (("test", ".ci/run"), ("thorough", ".ci/thorough")):
        workflow = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())
        (job,) = workflow["jobs"].values()
        assert job["strategy"]["matrix"]["python"] == re.findall(r"Python :: (3\.\d+)", said)
        assert job["steps"][-1]["run"] == command
        assert os.access(ROOT / command, os.X_OK)


def test_help_does_not_wait_for_jax():
    """Below a second each: only k-means' own modules import JAX before the arguments are read."""
    light = [name for name in commands.COMMANDS if name not in ("kmeans", "sweep")]
    program = f"""
import contextlib, io, sys
from kt_jax import commands

for words in ([], *([name] for name in {light})):
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        commands.main([*words, "--help"])
    assert "usage:" in printed.getvalue(), words
    assert "jax" not in sys.modules, words
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
