"""The table of results that a sweep ends with."""

import math
import sys

from rich.console import Console
from rich.table import Table

from training.progress import clock

SCORES = [
    "r2", "r2_observed", "r2_unobserved", "r2_amortised", "nll", "heldout_nll",
    "heldout_nll_amortised", "bps",
]  # fmt: skip
TEST_SCORES = ["r2", "nll", "heldout_nll", "bps", "co_bps"]


def print_table(rows: list[dict[str, float | str]]) -> None:
    """Print one line for each run. Print '-' for a missing score."""

    def number(value: float, form: str = ".3f") -> str:
        return "-" if math.isnan(value) else f"{value:{form}}"

    columns = {
        "bandwidth": [str(row["bandwidth"]) for row in rows],
        "seed": [str(row["seed"]) for row in rows],
        "dropped": [f"{row['fraction_dropped']:.0%}" for row in rows],
        "R²": [number(row["r2"]) for row in rows],
        "R² unobserved": [number(row["r2_unobserved"]) for row in rows],
        "R² encoder alone": [number(row["r2_amortised"]) for row in rows],
        "NLL": [number(row["nll"], ".4f") for row in rows],
        "bits/spike": [number(row["bps"], ".4f") for row in rows],
        "test bits/spike": [number(row.get("test_bps", math.nan), ".4f") for row in rows],
        "prior": [row["prior"] for row in rows],
        "factors": [str(row["factors"]) for row in rows],
        "epochs": [str(row["epochs"]) for row in rows],
        "time": [clock(row["seconds"]) for row in rows],
    }
    if len(set(columns["seed"])) == 1:
        del columns["seed"]
    if "test_bps" not in rows[0]:
        del columns["test bits/spike"]
    table = Table(box=None, pad_edge=False)
    for title in columns:
        table.add_column(title, justify="right")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    print()
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)
