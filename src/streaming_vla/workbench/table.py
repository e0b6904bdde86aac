"""Tables on a terminal: as wide as it is, and no word is ever cut."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

Cell = str | Text
BORDER = 1  # columns of a line between cells, and on both sides
PADDING = 2  # of a cell


class FittedTable:
    """A table whose cells wrap between words; where its words do not fit beside each other, a list of its rows.

    Args:
        header: of every column; the first column names the row.
        rows: as many cells each.
        right: the columns but the first stand on the right.
        sections: numbers of rows with a line below them.
    """

    def __init__(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        title: str = "",
        right: bool = True,
        sections: Sequence[int] = (),
    ) -> None:
        self._header = [Text(each) for each in header]
        self._rows = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
        self._title, self._right, self._sections = title, right, sections

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, or the list."""
        widths = self._widths(console, options)
        yield self._list() if widths is None else self._table(widths)

    def _widths(self, console: Console, options: ConsoleOptions) -> list[int] | None:
        """Return the width of each column's text: what it needs, or its longest word and a share of what is left."""
        cells = [[self._header[place], *(row[place] for row in self._rows)] for place in range(len(self._header))]
        needs = [[Measurement.get(console, options.update_width(10_000), cell) for cell in column] for column in cells]
        least = [max(need.minimum for need in column) for column in needs]
        whole = [max(need.maximum for need in column) for column in needs]
        room = options.max_width - len(cells) * (BORDER + PADDING) - BORDER
        if sum(whole) <= room:
            return whole
        left = room - sum(least)
        if left < 0:
            return None
        wanted = sum(whole) - sum(least)
        return [low + left * (high - low) // wanted for low, high in zip(least, whole, strict=True)]

    def _table(self, widths: Sequence[int]) -> Table:
        table = Table(title=self._title or None, title_justify="left", title_style="bold", header_style="bold")
        for place, (name, width) in enumerate(zip(self._header, widths, strict=True)):
            table.add_column(name, justify="right" if place and self._right else "left", width=width)
        for number, row in enumerate(self._rows):
            table.add_row(*row, end_section=number in self._sections)
        return table

    def _list(self) -> RenderableType:
        lines = [Text(self._title, style="bold")] if self._title else []
        for row in self._rows:
            lines.append(Text.assemble(row[0], style="bold"))
            for name, cell in zip(self._header[1:], row[1:], strict=True):
                lines.append(Text.assemble("  ", name, ": ", cell) if name.plain else Text.assemble("  ", cell))
        return Group(*lines)
