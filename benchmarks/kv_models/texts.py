"""Texts for training and evaluation from Debian's documentation packages; no page serves both.

`apt-get download` of the packages below, `dpkg-deb -x` of each into a folder of its name, then this. Training: the
Debian reference, the securing manual, the developer's reference, Python's documentation. Evaluation: the anarchist
FAQ (essays) and the jargon file (a dictionary).
"""

from __future__ import annotations

import gzip
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated

import typer

PACKAGES = {
    "train": ("debian-reference-en", "harden-doc", "developers-reference", "python3.11-doc"),
    "evaluate": ("anarchism", "jargon-text"),
}
SILENT = {"script", "style", "head", "nav"}
BREAKS = {"p", "li", "h1", "h2", "h3", "h4", "dt", "dd", "pre", "div", "br", "tr"}
LEAST, PART = 4000, 14_000  # characters of a page, and of a part of the jargon file


class Reader(HTMLParser):
    """Collects what a page says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A block begins a line."""
        self._silent += tag in SILENT
        if tag in BREAKS:
            self.said.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """A silent part ends."""
        self._silent = max(0, self._silent - (tag in SILENT))

    def handle_data(self, data: str) -> None:
        """Words."""
        if not self._silent:
            self.said.append(re.sub(r"[ \t\r]+", " ", data))


def plain(page: Path) -> str:
    """Return the text of an HTML page."""
    reader = Reader()
    reader.feed(page.read_text("utf-8", "replace"))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" *\n *", "\n", "".join(reader.said))).strip()


def main(
    unpacked: Annotated[Path, typer.Argument(help="folder into which the packages were unpacked")],
    out: Annotated[Path, typer.Argument(help="gets train/ and evaluate/")],
) -> None:
    """Write one text file per page."""
    for use, packages in PACKAGES.items():
        (out / use).mkdir(parents=True, exist_ok=True)
        for package in packages:
            pages = sorted((unpacked / package).rglob("*.html"))
            foreign = re.compile(r"/(de-DE|es-ES|fr-FR|it-IT|ja-JP|pt-BR|pt-PT|ru-RU|zh-CN|fr|de|ja|ru)/")
            texts = {page.stem: plain(page) for page in pages if not foreign.search(str(page))}
            for book in (unpacked / package).rglob("jargon.txt.gz"):
                whole = gzip.decompress(book.read_bytes()).decode("latin-1")
                texts |= {f"{at // PART:03d}": whole[at : at + PART] for at in range(20 * PART, len(whole), PART)}
            for name, text in texts.items():
                if len(text) >= LEAST:
                    (out / use / f"{package}_{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
