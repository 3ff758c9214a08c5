"""The README's table of variables, written from the variables themselves: `python -m tests.readme_table`."""

from __future__ import annotations

from pathlib import Path

from flx_otel_distro.environment import variables

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- variables: begin -->\n", "<!-- variables: end -->\n"


def table() -> str:
    """Return the table; variables of one signal alone are left out, as the text above it says."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for each in variables():
        if each.general:
            continue
        default = f"`{each.default}`" if each.default else ""
        also = f" (also {', '.join(f'`{alias}`' for alias in each.aliases)})" if each.aliases else ""
        rows.append(f"| `{each.name}`{also} | {default} | {each.doc} |".replace("|  |", "| |"))
    return "\n".join(rows) + "\n"


def with_table(text: str) -> str:
    """Return a README's text with the table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
