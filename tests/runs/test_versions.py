"""The commit that manifests and scores name, and the command that installs an extra."""

import json
import subprocess
from importlib import metadata

import pytest

from kt_jax.runs import versions


def git(directory, *words):
    named = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    asked = ["git", "-C", directory, *named, *words]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A repository with the package in it, from which kt_jax seems to be imported."""
    package = tmp_path / "kt_jax"
    package.mkdir()
    (package / "versions.py").write_text("")
    (tmp_path / "README.md").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "README.md")
    git(tmp_path, "commit", "--quiet", "--message=Begin")
    monkeypatch.setattr(versions, "__file__", str(package / "versions.py"))
    versions.find_commit.cache_clear()
    yield package
    versions.find_commit.cache_clear()


def test_a_checkout_has_a_commit_and_says_whether_files_differ(package):
    git(package, "add", ".")
    git(package, "commit", "--quiet", "--message=Add the package")
    commit = git(package, "rev-parse", "HEAD")[:12]
    assert versions.find_commit() == commit
    versions.find_commit.cache_clear()
    (package / "versions.py").write_text("x = 1\n")
    assert versions.find_commit() == f"{commit}-dirty"


def test_the_commit_of_somebody_elses_repository_is_not_ours(package):
    # The package is not tracked, as in a virtual environment inside a project.
    assert versions.find_commit() == ""


def pretend_that_pip_installed(monkeypatch, origin):
    class Installed:
        def read_text(self, name):
            assert name == "direct_url.json"
            return origin and json.dumps(origin)

    monkeypatch.setattr(metadata, "distribution", lambda name: Installed())


def test_pip_says_the_commit_of_what_it_installed_from_git(package, monkeypatch):
    origin = {"vcs_info": {"vcs": "git", "commit_id": 40 * "a"}}
    pretend_that_pip_installed(monkeypatch, origin)
    assert versions.find_commit() == 12 * "a"


@pytest.mark.parametrize(
    ("origin", "asked"),
    [
        (None, "kt_jax[torch]"),
        ({"url": "file:///a/kt_jax.whl"}, "kt_jax[torch] @ file:///a/kt_jax.whl"),
        (
            {"url": "https://example.org/kt_jax", "vcs_info": {"vcs": "git", "commit_id": "a"}},
            "kt_jax[torch] @ git+https://example.org/kt_jax",
        ),
    ],
)
def test_an_extra_comes_from_where_the_package_came_from(package, monkeypatch, origin, asked):
    pretend_that_pip_installed(monkeypatch, origin)
    assert versions.install_extra("torch") == f"pip install '{asked}'"


def test_an_extra_of_a_checkout(package, monkeypatch):
    checkout = package.parent
    (checkout / "pyproject.toml").write_text("")
    (checkout / "kt_jax/runs").mkdir()
    monkeypatch.setattr(versions, "__file__", str(checkout / "kt_jax/runs/versions.py"))
    assert versions.install_extra("torch") == f"pip install -e '{checkout}[torch]'"
