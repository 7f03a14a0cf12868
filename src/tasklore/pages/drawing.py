"""Charts as SVG that is part of the page: its colours are the page's, and follow light, dark and print."""

import io
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["COLOURS", "GRID", "HEIGHT", "INK", "MUTED", "PAPER", "SETTINGS", "WIDTH", "chart", "svg", "title"]

WIDTH, HEIGHT = 460, 290  # px of the page; readable down to the width of a phone

# Stand-ins that the page's own colours take the place of, see _in_page_colours.
INK, MUTED, GRID, PAPER = "#0a0b0c", "#0a0b0d", "#0a0b0e", "#0a0b0f"
COLOURS = tuple(f"#0a0c{index:02x}" for index in range(8))

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and selected
    "text.parse_math": False,  # a $ in somebody's name is a $
    "font.family": "sans-serif",
    "font.size": 13,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1,
    "axes.spines.left": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.ymargin": 0.08,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "text.color": INK,
    "lines.linewidth": 2,
    "lines.markersize": 7,
}


@contextmanager
def chart(
    name: str, alt: str, height: float = HEIGHT, grid: Any = "y"
) -> Generator[tuple[Axes, list[Markup]]]:
    """Give axes to draw on; afterwards the list holds the picture.

    Parameters
    ----------
    name : str
        Unique on the page.
    alt : str
        What the picture says, for those who do not see it.
    height : float
        In px.
    grid : {"x", "y"}
        Whose ticks have lines.
    """
    drawn: list[Markup] = []
    with rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis=grid, color=GRID, linewidth=1)
        yield axes, drawn
        drawn.append(svg(figure, name, alt))


def title(axes: Axes, text: str) -> None:
    """Write above the chart what it shows, where it needs no turned head."""
    axes.set_title(text[:1].upper() + text[1:], loc="left", color=MUTED, fontsize=13)


def svg(figure: Figure, name: str, alt: str) -> Markup:
    """Return the figure as an element of the page, the same for the same figure."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # The browser has fonts for what matplotlib's lacks; the text stays text.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)  # a style holds for the whole page
    # Ids are unique within a figure only, and the page holds several.
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in used else "", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    label = f'role="img" aria-label="{Markup.escape(alt)}"' if alt else 'aria-hidden="true"'
    return Markup(_in_page_colours(text).replace("<svg", f"<svg {label}", 1))


def _in_page_colours(text: str) -> str:
    names = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}
    names |= {colour: f"method-{index}" for index, colour in enumerate(COLOURS)}
    return re.sub("|".join(names), lambda found: f"var(--{names[found.group()]})", text)
