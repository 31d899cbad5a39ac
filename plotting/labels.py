"""What axes say: the time as trials are aligned, neurons by their ids."""

from typing import NamedTuple

import numpy as np


class Labels(NamedTuple):
    """Labels of the time bins and the neurons of a recording."""

    bin_width: float  # s
    start: float = 0.0  # of a trial (s), after what the trials are aligned to
    units: list[str] | None = None  # ids of the neurons. None: they are numbered from 1

    @property
    def noun(self) -> str:
        """What a row of a recording is called."""
        return "neuron" if self.units is None else "unit"

    def edges(self, n_bins: int) -> tuple[float, float]:
        """Return when a trial starts and stops (s)."""
        return self.start, self.start + self.bin_width * n_bins

    def times(self, n_bins: int) -> np.ndarray:
        """Return the centres of the bins (s)."""
        return self.start + self.bin_width * (0.5 + np.arange(n_bins))

    def id(self, neuron: int) -> str:
        """Return the id of a neuron, given its index; nothing if there is none."""
        units = self.units
        if units is None:
            return str(neuron + 1)
        return units[neuron] if 0 <= neuron < len(units) else ""
