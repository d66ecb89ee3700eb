"""What the pages say is there."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "jobs" / "README.md"]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))
README = PAGES[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(REPOSITORY)) for p in PAGES])
def test_every_link_inside_the_repository_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    inside = [t for t in targets if not re.match(r"https?:|mailto:", t)]
    assert [t for t in inside if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES[:2], ids=["README.md", "jobs/README.md"])
def test_both_job_tables_list_every_job(page):
    jobs = {path.parent.name for path in (REPOSITORY / "jobs").glob("**/meta.json")}
    listed = re.findall(r"^\| `(\w+)` \|", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert jobs <= set(listed)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_every_file_the_readmes_paper_table_names_exists():
    for name in re.findall(r"`(algorithms/\w+\.py)`", README):
        assert (REPOSITORY / "custom" / "polyclinic" / name).is_file()
    for name in re.findall(r"`(tests/[\w/]+\.py)`", README):
        assert (REPOSITORY / name).is_file()


def test_every_function_and_test_of_the_paper_page_exists():
    page = (REPOSITORY / "docs" / "papers.md").read_text(encoding="utf-8")
    tests = "\n".join(p.read_text("utf-8") for p in (REPOSITORY / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert named
    assert [name for name in named if f"def {name}(" not in tests] == []
    package = REPOSITORY / "custom" / "polyclinic"
    paths = re.findall(r"`((?:objectives|algorithms|models)\.[\w.]+)`", page)
    for dotted in paths:
        folder, module, thing = dotted.split(".")[:3]
        source = (package / folder / f"{module}.py").read_text(encoding="utf-8")
        assert re.search(rf"^(def|class) {thing}\b", source, flags=re.MULTILINE), dotted
