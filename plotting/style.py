"""The look of all figures, and how they are saved."""

from pathlib import Path

from matplotlib.figure import Figure

from command_line import atomic_write

STYLE = Path(__file__).parent / "sbtt.mplstyle"
BLUE, SKY, ORANGE, GREEN = "#0072B2", "#56B4E9", "#D55E00", "#009E73"
GREY, PURPLE = "#666666", "#CC79A7"


def save(figure: Figure, name: str, out: Path) -> None:
    """Save a figure as PNG and PDF, without dates: the same figure gives the same bytes."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        with atomic_write(out / (name + suffix)) as path:
            figure.savefig(path, metadata=metadata)
        figure.set_layout_engine("none")  # the layout is made once; it takes longer than drawing
