"""docs/reference/plugins.md, made from the projects' own metadata.

python docs/_ext/catalogue.py    writes the page anew; tests/docs checks that it is up to date
"""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "plugins.md"
HEAD = """# All plugins

`pip install "dovetail[NAME]"` installs one. Each README tells its options, formulas and sources;
`dovetail describe KIND NAME` shows the same for an installed part, and `dovetail plugins` what is installed.
<!-- written by docs/_ext/catalogue.py -->
"""


def written() -> str:
    """The page."""
    folders = sorted(path.parent for pattern in ("plugins/*/*", "kernels/*") for path in ROOT.glob(f"{pattern}/pyproject.toml"))
    sections: dict[str, list[str]] = {}
    for folder in folders:
        title = "kernels" if folder.parent.name == "kernels" else folder.parent.name
        sections.setdefault(title, []).append(_row(folder))
    tables = [
        f"\n## {title.capitalize()}\n\n| plugin | what | adds |\n|---|---|---|\n" + "".join(rows)
        for title, rows in sections.items()
    ]
    return HEAD + "".join(tables)


def _row(folder: Path) -> str:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = project["name"].removeprefix("dovetail-")
    groups = project.get("entry-points", {}).items()
    adds = "; ".join(f"{group.removeprefix('dovetail.')}: {', '.join(f'`{part}`' for part in parts)}" for group, parts in groups)
    link = f"../../{folder.relative_to(ROOT).as_posix()}/README.md"
    return f"| [{name}]({link}) | {project['description']} | {adds} |\n"


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
