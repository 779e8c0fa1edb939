"""README and docs: commands that exist, links that lead somewhere."""
import importlib
import re
import shlex
from pathlib import Path

import pytest

from tests import scripts

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_MOST_LINES = 170


def _commands():
    """(page, words) of every command line in a block of code."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"(?m)^ {4}(?:[A-Z_]+=\S+ )*python (.+)$", text):
            yield page.name, shlex.split(line.rstrip("& "), comments=True)


def _check(name, words):
    """Parse the options of a script, or of a module that has a parser."""
    module = importlib.import_module(name)
    cut = words.index("--") if "--" in words else len(words)
    if hasattr(module, "make_parser"):
        module.make_parser().parse_args(words[:cut])
    rest = words[cut + 1:]
    if rest and rest[0].endswith(".py"):
        _check(rest[0].removesuffix(".py"), rest[1:])
    elif rest and name == "compare":
        _check("train_cifar", rest)


@pytest.mark.parametrize("page, words", [
    pytest.param(page, words, id=f"{page} {' '.join(words)[:60]}") for page, words in _commands()])
def test_every_command_is_one(page, words):
    if words[0] == "-m":
        _check(words[1], words[2:])
    elif words[0].endswith(".py"):
        assert (ROOT / words[0]).is_file()
        _check(words[0].removesuffix(".py"), words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"params", "logs"}
    for name in re.findall(r"`([a-z_]+/[\w./-]+\.(?:py|md|json|sh|params|txt))`",
                           page.read_text(encoding="utf-8")):
        if name.split("/")[0] in folders:
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("block", re.findall(
    r"(?ms)^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8")),
    ids=lambda block: block.split()[1])
def test_python_that_is_shown_runs(block, tmp_path, monkeypatch):
    """On small files of CIFAR-10 where the official ones are looked for, and our logs."""
    scripts.drawn_cifar(tmp_path / ".mxnet/datasets/cifar10", 256, 32)
    (tmp_path / "logs").mkdir()
    for folder in (ROOT / "logs").glob("cifar10-*-b1-seed*"):
        (tmp_path / "logs" / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    exec(compile(block, "docs/python.md", "exec"), {})


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= _MOST_LINES
