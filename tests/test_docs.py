"""What the pages say exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_something(page: Path) -> None:
    prose = re.sub(r"`[^`]*`", "", page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", prose)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_finding_named_in_the_pitfalls_is_one_that_check_can_make() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/tandem/check").glob("*.py"))
    made = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', source)) | {"image-shared", "case-shared"}
    assert '{kind}-shared"' in source
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    named = {code for group in re.findall(r"\[([a-z-]+(?:, [a-z-]+)*)\](?!\()", page) for code in group.split(", ")}
    assert len(named) >= 10
    assert named - made == set()


def test_every_room_and_top_level_module_stands_in_the_design() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    source = ROOT / "src" / "tandem"
    rooms = [path.parent.name for path in source.glob("*/__init__.py")]
    modules = [path.name for path in source.glob("*.py") if not path.name.startswith("__")]
    assert [name for name in [*rooms, *modules] if f"\n| `{name}` |" not in page] == []
