"""Tables as Markdown, for people, and as CSV, for programs."""
import csv
import io

from common.files import write_text

__all__ = ["markdown", "write_csv"]


def _cell(value):
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def markdown(rows):
    """A Markdown table of dicts with the same keys; floats with three digits."""
    lines = [[key.replace("_", " ") for key in rows[0]],
             *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    texts = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
             for line in lines]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)


def write_csv(path, rows):
    """Write dicts with the same keys as CSV, atomically. Floats keep every bit."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
