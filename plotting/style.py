"""The look of all figures, and how they are saved."""

from pathlib import Path

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from command_line import atomic_write

STYLE = Path(__file__).parent / "sbtt.mplstyle"
BLUE, SKY, ORANGE, GREEN, GREY = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#666666"


def rgb(colour: str) -> np.ndarray:
    """Return a colour as (red, green, blue) from 0 to 1."""
    return np.array(to_rgb(colour))


def save(figure: Figure, name: str, out: Path) -> None:
    """Save a figure as PNG and PDF, without dates: the same figure gives the same bytes."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        with atomic_write(out / (name + suffix)) as path:
            figure.savefig(path, metadata=metadata)
        figure.set_layout_engine("none")  # the layout is made once; it takes longer than drawing


def save_animation(animation: FuncAnimation, name: str, out: Path) -> None:
    """Save an animation as a GIF, one and a half seconds for each picture."""
    with atomic_write(out / f"{name}.gif") as path:
        animation.save(path, writer=PillowWriter(fps=1 / 1.5))
