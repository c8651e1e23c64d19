"""The README is short and its links lead somewhere; the pages say of the code what is so."""

import ast
import re
from pathlib import Path

import pytest

from fastgan.__main__ import COMMANDS
from fastgan.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))]

LAYERS = (
    "commands",
    "cli",
    "evaluation",
    "training",
    "data",
    "recipes",
    "unfuse",
    "models",
    "fuse",
    "nn",
    "functional",
    "ops",
    "kernels",
    "reference",
)


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def prose(text):
    """The sentences of a page, without code, tables, pictures, headings and comments; a list item ends one."""
    text = re.sub(r"```.*?```|<!-- .*? -->", "", text, flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "#", "!"))]
    blocks = re.split(r"\n\s*\n|\n(?=- )", "\n".join(lines))
    return [sentence for block in blocks for sentence in re.split(r"(?<=[.:!?])\s+", block.strip()) if sentence]


def test_the_readme_is_short():
    text = read("README.md")
    assert len(text.splitlines()) <= 150
    long = [sentence for sentence in prose(text) if len(sentence.split()) > 25]
    assert not long and len(prose(text)) > 20


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


def test_every_page_is_linked_from_the_readme_or_the_index():
    links = set(re.findall(r"\]\((?:docs/)?([^)#\s]+\.md)", read("README.md") + read("docs/index.md")))
    pages = {page.removeprefix("docs/") for page in PAGES if not page.startswith("docs/api/")}
    assert pages - links <= {"README.md", "index.md"}


@pytest.mark.parametrize("page", ["README.md", "docs/recipes.md"])
def test_every_recipe_is_in_the_tables(page):
    first_cells = re.findall(r"^\| (`.*?) \|", read(page), re.MULTILINE)
    assert set(RECIPES) <= set(re.findall(r"`(\w+)`", " ".join(first_cells)))


def test_every_make_target_is_told():
    makefile = read("Makefile")
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()) - {"setup", "clean"}
    text = "".join(map(read, PAGES))
    assert all(f"`make {target}" in text or f"\nmake {target}\n" in text for target in targets)


def layer(module):
    """The layer of a module by its name below the root; None for small helpers that belong to none."""
    first = module.split(".")[0]
    if first in COMMANDS or first == "__main__":
        return "commands"
    return {"_fuse": "fuse", "_unfuse": "unfuse"}.get(first, first if first in LAYERS else None)


def imported(path):
    """Names of modules of ours, relative to fastgan, that a file imports anywhere in it."""
    package = ["fastgan", "kernels"]
    if path.parent.name != "kernels":
        package = ["fastgan", *path.relative_to(ROOT / "fastgan").parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *filter(None, [node.module])])
            names = [f"{module}.{each.name}" for each in node.names]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        else:
            continue
        yield from (name.removeprefix("fastgan.") for name in names if name.startswith("fastgan."))


def test_the_arrows_of_the_architecture_are_the_imports():
    found = {name: set() for name in LAYERS}
    for path in [*ROOT.glob("fastgan/**/*.py"), *ROOT.glob("kernels/*.py")]:
        is_kernel = path.parent.name == "kernels"
        own = "kernels" if is_kernel else layer(path.relative_to(ROOT / "fastgan").parts[0].removesuffix(".py"))
        if own is not None:
            found[own] |= {other for name in imported(path) if (other := layer(name)) not in (None, own)}
    block = re.search(r"^commands -> .*?(?=^```)", read("docs/architecture.md"), re.MULTILINE | re.DOTALL)[0]
    written = [line.split("->") for line in block.splitlines()]
    drawn = {name.strip(): {each.strip() for each in others.split(",")} - {"nothing"} for name, others in written}
    assert drawn == found
    assert list(drawn) == list(LAYERS), "the page's order, in which imports point down"
    for name, others in drawn.items():
        assert all(LAYERS.index(other) > LAYERS.index(name) for other in others), f"{name} imports upward"
