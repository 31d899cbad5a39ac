"""The prior over initial conditions: how those of the training trials are distributed.

Letters in shapes: J training trials, H hidden units.
"""

import torch
from torch import Tensor

MIN_VARIANCE = (
    1e-4  # added to all directions, also those in which the initial conditions do not differ
)


class KernelDensity:
    """A Gaussian kernel around each of many initial conditions (Parzen 1962), all of one shape.

    A kernel has the covariance of the initial conditions, times `width` squared. A large width
    makes the density a single Gaussian.

    Args:
        centres: (J, H) initial conditions.
        width: Width of a kernel, in standard deviations of the centres.
    """

    def __init__(self, centres: Tensor, width: float) -> None:
        self.mean, self.whitening = whiten(centres)
        self.centres, self.width = (centres - self.mean) @ self.whitening, width

    def log_density(self, initial_conditions: Tensor) -> Tensor:
        """Return the log density (B,) at initial conditions (B, H), up to a constant."""
        distances = torch.cdist((initial_conditions - self.mean) @ self.whitening, self.centres)
        return (-0.5 * (distances / self.width) ** 2).logsumexp(dim=1)

    def sample(self, n_samples: int) -> Tensor:
        """Draw initial conditions (n_samples, H), from all kernels in turn. Always the same
        ones."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.arange(n_samples) % len(self.centres)
        noise = torch.randn(n_samples, self.centres.shape[1], generator=generator).to(self.centres)
        points = self.centres[rows] + self.width * noise
        return (
            torch.linalg.solve_triangular(self.whitening, points, upper=True, left=False)
            + self.mean
        )


def whiten(centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (H,) of centres (J, H) and the matrix (H, H) that makes their covariance the
    identity."""
    mean = centres.mean(0)
    covariance = (
        (centres - mean).T @ (centres - mean) / max(len(centres) - 1, 1)
    )  # torch.cov of one centre is NaN
    identity = torch.eye(len(mean)).to(covariance)
    factor = torch.linalg.cholesky(covariance + MIN_VARIANCE * identity)
    return mean, torch.linalg.solve_triangular(factor, identity, upper=False).T
