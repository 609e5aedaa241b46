import ast
import re
from pathlib import Path

import pytest

from fedsim.scenario import load_scenario

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.S | re.M)


def test_the_scenario_of_the_readme_is_right(tmp_path: Path) -> None:
    (text,) = blocks(ROOT / "README.md", "toml")
    file = tmp_path / "readme.toml"
    file.write_text(text)
    scenario = load_scenario(file)
    assert scenario.partition.options == {"alpha": 0.5}
    assert [attack.name for attack in scenario.adversary.attacks] == ["idlg"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_documents_is_python(document: Path) -> None:
    for block in blocks(document, "python"):
        ast.parse(block)


def test_every_make_target_that_is_named_exists() -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {
        t for d in DOCUMENTS for t in re.findall(r"\bmake ([a-z]+(?:-[a-z]+)?)\b(?=`| +#)", d.read_text())
    }
    assert {"demo", "test", "lint"} <= named
    assert named <= known


def test_every_dependency_has_its_line() -> None:
    import tomllib
    from itertools import chain

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        re.split(r"[><=~!]", requirement)[0]
        for requirement in [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
        if not requirement.startswith("fedsim[")
    }
    text = (ROOT / "docs/dependencies.md").read_text()
    listed = {name for row in re.findall(r"^\| (.+?) \|", text, re.M) for name in row.split(", ")}
    assert listed - {"package"} == wanted
