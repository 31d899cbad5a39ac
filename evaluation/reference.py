"""Reference numbers of the demonstration: those of the public demo, and of this repo over seeds.

`published_r2.csv` is what the public SBTT demo (snel-repo/sbtt-demo, MIT; Zhu, Sedler et al.,
NeurIPS 2021,
arXiv:2111.00070) reached, read off the training histories that it publishes. For each of its eight
models: validation R² to the true rates and validation Poisson NLL on observed entries at the epoch
with the lowest NLL, that epoch, and the seconds of its 1000 epochs on its authors' GPU machine.
`docs/seeds.csv` is this repo's (docs/recipe.md has the commands).
"""

from pathlib import Path

import numpy as np

from command_line import read_table
from recordings.hdf5 import SPLITS, open_file

HERE = Path(__file__).parent
PUBLISHED_CSV, SEEDS_CSV = HERE / "published_r2.csv", HERE.parent / "docs" / "seeds.csv"
# those of lorenz_data.h5
GENERATOR = {"generator": "simulate.py", "generator_version": 1, "seed": 5}
SHAPES = {"train": (1248, 50, 29), "valid": (312, 50, 29)}


def is_demonstration(path: str | Path) -> bool:
    """Return whether a data file is that of the demonstration, so that the reference numbers
    apply."""
    with open_file(path) as file:
        same_generator = all(
            np.array_equal(file.attrs.get(name), value) for name, value in GENERATOR.items()
        )
        return same_generator and all(
            file[f"{split}_data"].shape == SHAPES[split] for split in SPLITS
        )


def read_published() -> dict[int, dict[str, float]]:
    """Return what the public demo published, for each bandwidth, the largest first."""
    rows = [{key: float(value) for key, value in row.items()} for row in read_table(PUBLISHED_CSV)]
    return {int(row["bandwidth"]): row for row in rows}


def read_seeds() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what this repo reaches over seeds: fraction dropped, mean R² and its SD, each
    (bandwidths,)."""
    rows = read_table(SEEDS_CSV)
    dropped = sorted({float(row["fraction_dropped"]) for row in rows})
    r2 = np.array(
        [
            [float(row["r2"]) for row in rows if float(row["fraction_dropped"]) == value]
            for value in dropped
        ]
    )
    return np.array(dropped), r2.mean(1), r2.std(1, ddof=1)
