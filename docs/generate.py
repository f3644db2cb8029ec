"""Write the generated pages of docs/; with --check fail if any is out of date."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from charts import CHARTS
from evolution import evolution_page
from model_tables import drawing, drawn, family_page, models_page

from ordito import catalogue
from ordito.families import families

DOCS = Path(__file__).parent


def families_page() -> str:
    """docs/families.md: the models and architecture names of each family."""
    rows = [
        f"| [{f.title}](../ordito/families/{f.name}.py) | {f.members} | {code(f.model_types)} "
        f"| {code(f.gguf.architectures if f.gguf else ()) or 'none'} "
        f"| {code(f.prompts) or 'none'} |"
        for f in families()
    ]
    return "\n".join(
        [
            "# Families",
            "",
            "<!-- Written by docs/generate.py; do not edit. -->",
            "",
            "| family | members | `model_type` in config.json | `general.architecture` in GGUF | prompt formats |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            "A checkpoint's own chat template takes precedence over the family's prompt formats. To add a family, see",
            "[CONTRIBUTING.md](../CONTRIBUTING.md).",
            "",
        ]
    )


def code(words: tuple[str, ...]) -> str:
    """Words as inline code, separated by commas."""
    return ", ".join(f"`{word}`" for word in words)


PAGES: dict[str, Callable[[], str]] = {"evolution.md": evolution_page, "families.md": families_page, "models.md": models_page}
PAGES |= {f"charts/{name}": chart for name, chart in CHARTS.items()}
for family in catalogue.titles():
    PAGES[f"models/{family}.md"] = partial(family_page, family)
    PAGES |= {f"models/{file}": partial(drawing, name) for name, file in drawn(family)}


def main() -> int:
    """Write or check every page; returns the exit status, 1 if --check found one out of date."""
    check, stale = "--check" in sys.argv, []
    for name, page in PAGES.items():
        text, path = page(), DOCS / name
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"docs/{stale[0]} is out of date: run `make docs`", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
