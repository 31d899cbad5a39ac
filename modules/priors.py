"""Priors: what is known of a trial before its counts are seen, and how it is inferred with that.

The encoder alone guesses a trial's initial condition. The other priors know the initial conditions
of reference trials, those of training. Where trials share trajectories, as those of one condition
do, a few counts are enough to choose among known trajectories, though not to guess an initial
condition (an aggregate posterior as the prior, Tomczak & Welling 2018). No label says which trials
belong together. Where no trial repeats another, the prior is a density over initial conditions.

Letters in shapes: B trials, J reference trials, K points, T time bins, N neurons, H hidden units.
A missing count is NaN.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from modules.posterior import (
    Inference,
    log_likelihoods,
    mean_trajectories,
    n_affordable,
    posterior_weights,
)

N_SAMPLES = 5000  # initial conditions that are drawn where trajectories are similar
N_NEAREST = 1  # reference trials from which an ascent starts, beside the trial's encoding
ASCENT_STEPS, ASCENT_RATE = 60, 0.05
MIN_VARIANCE = 1e-4  # in directions in which the initial conditions do not differ
DIFFERENCE = 0.02  # step of the finite differences, in standard deviations of the prior
N_COPIES = 4  # of a trial's trajectory that an ascent keeps, for its starts and their gradients
N_TOGETHER = 16  # trials whose perturbed trajectories are decoded at a time


class Prior(nn.Module):
    """How a trial is inferred."""

    name: str
    knows_trials = True  # reference trials, not the encoder alone
    is_slow = False

    def infer(self, model: nn.Module, spikes: Tensor) -> Inference:
        """Infer trials from spikes (B, T, N), NaN = missing."""
        raise NotImplementedError

    def rates_sd(self, model: nn.Module, spikes: Tensor, inference: Inference) -> Tensor | None:
        """Return the posterior standard deviation of the rates (B, T, N) in spikes/s, if known."""
        return None

    def select(self, trials: Tensor | slice) -> "Prior":
        """Return the same prior with some of its reference trials."""
        return self

    def numbers(self) -> dict[str, Tensor | float]:
        """Return what the prior is made from, to store it."""
        return {}


class EncoderAlone(Prior):
    """The encoder guesses the initial condition, and the inputs, if the model has any."""

    name = "encoder"
    knows_trials = False

    def infer(self, model: nn.Module, spikes: Tensor) -> Inference:
        return model(spikes)


class Shared(Prior):
    """Trials share their trajectories with the reference trials. The posterior weighs them.

    Args:
        reference: (J, H) initial conditions of reference trials.
    """

    name = "shared"

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        self.register_buffer("reference", reference, persistent=False)

    def points(self, n_at_most: int) -> Tensor:
        """Return the initial conditions (K, H) of the trajectories that may explain a trial."""
        return self.reference

    def trajectories(self, model: nn.Module, spikes: Tensor) -> tuple[Tensor, ...]:
        """Return the weights (B, K), log-rates, latents and beginnings (K, ...) of trajectories."""
        points = self.points(n_affordable(*spikes.shape[1:], self.reference.shape[1]))
        log_rates, latents = model.decode(points, spikes.shape[1])
        return posterior_weights(spikes, log_rates), log_rates, latents, points

    @torch.no_grad()
    def infer(self, model: nn.Module, spikes: Tensor) -> Inference:
        """Return the posterior means of B trials."""
        return Inference(*mean_trajectories(*self.trajectories(model, spikes)))

    @torch.no_grad()
    def rates_sd(self, model: nn.Module, spikes: Tensor, inference: Inference) -> Tensor:
        """Return the standard deviation over trajectories under their posterior weights."""
        weights, log_rates, *_ = self.trajectories(model, spikes)
        log_mean, mean_square = mean_trajectories(weights, log_rates, log_rates.mul(2).exp())
        return (mean_square - log_mean.mul(2).exp()).clamp(min=0).sqrt() / model.bin_width

    def select(self, trials: Tensor | slice) -> "Shared":
        return type(self)(**self.numbers() | {"reference": self.reference[trials]})

    def numbers(self) -> dict[str, Tensor | float]:
        return {"reference": self.reference}


class Similar(Shared):
    """Trials have trajectories near those of the reference trials: samples of a density."""

    name = "similar"

    def __init__(self, reference: Tensor, width: float = 0.3) -> None:
        super().__init__(reference)
        self.width = width

    def points(self, n_at_most: int) -> Tensor:
        return KernelDensity(self.reference, self.width).sample(min(N_SAMPLES, n_at_most))

    def numbers(self) -> dict[str, Tensor | float]:
        return {"reference": self.reference, "width": self.width}


class Own(Similar):
    """Each trial has an initial condition of its own: the most probable one under a wide density.

    The uncertainty is the Laplace approximation around it: the log-rates are taken as linear in the
    initial condition, and the prior as one Gaussian. What is uncertain about the decoder and the
    readout is not in it.
    """

    name = "own"
    is_slow = True

    def __init__(self, reference: Tensor, width: float = 2.0) -> None:
        super().__init__(reference, width)

    def infer(self, model: nn.Module, spikes: Tensor) -> Inference:
        n_together = n_affordable(*spikes.shape[1:], self.reference.shape[1]) // N_COPIES
        batches = spikes.split(max(1, n_together))
        parts = zip(*(self.infer_batch(model, batch)[:3] for batch in batches), strict=True)
        return Inference(*map(torch.cat, parts))

    @torch.inference_mode(False)
    @torch.no_grad()
    def infer_batch(self, model: nn.Module, spikes: Tensor) -> Inference:
        """Return the posterior means over what gradient ascent finds from a few starts."""
        spikes, n_bins = spikes.clone(), spikes.shape[1]  # of inference mode, it has no gradients
        known = log_likelihoods(spikes, model.decode(self.reference, n_bins)[0])
        nearest = known.topk(min(N_NEAREST, len(self.reference))).indices
        starts = torch.cat((model.encode(spikes)[0].unsqueeze(1), self.reference[nearest]), dim=1)
        prior = KernelDensity(self.reference, self.width)
        with torch.enable_grad(), frozen(model):
            found, weights = most_probable(
                lambda points: model.decode(points, n_bins)[0], spikes, starts, prior
            )
        decoded = model.decode(found.flatten(0, 1), n_bins)
        log_rates, latents = (part.unflatten(0, starts.shape[:2]) for part in decoded)
        return Inference(*mean_trajectories(weights, log_rates, latents, found))

    @torch.no_grad()
    def rates_sd(self, model: nn.Module, spikes: Tensor, inference: Inference) -> Tensor:
        n_hidden = self.reference.shape[1]
        n_together = min(N_TOGETHER, n_affordable(*spikes.shape[1:], n_hidden) // n_hidden)
        prior = KernelDensity(self.reference, self.width)
        parts = (spikes, inference.log_rates, inference.initial_condition)
        batches = zip(*(part.split(max(1, n_together)) for part in parts), strict=True)
        return torch.cat([laplace_sd(model, *batch, prior) for batch in batches]) / model.bin_width


class Ensemble(Prior):
    """The mean of what several models infer (deep ensembles, Lakshminarayanan et al. 2017).

    Their latents, initial conditions and inputs are not comparable, and are joined.
    """

    name = "ensemble"

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.is_slow = any(member.prior.is_slow for member in members)

    def infer(self, model: nn.Module, spikes: Tensor) -> Inference:
        log_rates, *others = zip(*(member.infer(spikes) for member in self.members), strict=True)
        means = torch.stack(log_rates).double().exp().mean(0)
        joined = (torch.cat([x for x in other if x is not None], dim=-1) for other in others[:2])
        given = [inputs for inputs in others[2] if inputs is not None]
        inputs = torch.cat(given, dim=-1) if given else None
        return Inference(means.log().to(spikes), *joined, inputs)

    def rates_sd(self, model: nn.Module, spikes: Tensor, inference: Inference) -> Tensor | None:
        """Return the SD of the mixture of the members' posteriors."""
        mean, squares = model.rates(inference.log_rates), 0.0
        for member in self.members:
            inferred = member.infer(spikes)
            sd = member.rates_sd(spikes, inferred)
            spread = (member.rates(inferred.log_rates) - mean).square()
            squares = squares + spread + (0.0 if sd is None else sd.square())
        return (squares / len(self.members)).sqrt()


PRIORS = {prior.name: prior for prior in (EncoderAlone, Shared, Similar, Own)}


def read_prior(checkpoint: dict) -> Prior:
    """Return the prior that a checkpoint stores."""
    if "prior" not in checkpoint:  # of an earlier version, which had a width for a name
        names = {0.0: "shared", 0.3: "similar", 2.0: "own"}
        reference = checkpoint.get("reference", ())
        if len(reference) == 0:
            return EncoderAlone()
        return PRIORS[names[checkpoint["prior_width"]]](reference)
    return PRIORS[checkpoint["prior"]["name"]](**checkpoint["prior"]["numbers"])


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
        """Draw initial conditions (K, H), from all kernels in turn. Always the same ones."""
        generator = torch.Generator().manual_seed(0)
        n_centres = len(self.centres)
        rows = torch.arange(n_samples) % n_centres
        if n_samples < n_centres:
            rows = torch.linspace(0, n_centres - 1, n_samples).long()
        noise = torch.randn(n_samples, self.centres.shape[1], generator=generator)
        points = self.centres[rows] + self.width * noise.to(self.centres)
        unwhitened = torch.linalg.solve_triangular(self.whitening, points, upper=True, left=False)
        return unwhitened + self.mean


def whiten(centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (H,) of centres (J, H) and the matrix (H, H) that whitens them."""
    mean = centres.mean(0)
    # torch.cov of one centre is NaN
    covariance = (centres - mean).T @ (centres - mean) / max(len(centres) - 1, 1)
    identity = torch.eye(len(mean)).to(covariance)
    factor, has_failed = torch.linalg.cholesky_ex(covariance + MIN_VARIANCE * identity)
    if has_failed:  # centres so far apart that MIN_VARIANCE is lost in rounding
        smallest = MIN_VARIANCE + 1e-5 * covariance.trace()
        factor = torch.linalg.cholesky_ex(covariance + smallest * identity)[0]
    return mean, torch.linalg.solve_triangular(factor, identity, upper=False).T


def most_probable(
    decode: Callable[[Tensor], Tensor], spikes: Tensor, starts: Tensor, prior: KernelDensity
) -> tuple[Tensor, Tensor]:
    """Find initial conditions that have a high posterior density given each trial's counts.

    Gradient ascent (Adam) from several starts, because the density has several maxima.

    Args:
        decode: Gives log expected counts per bin (B, T, N) from initial conditions (B, H).
        spikes: (B, T, N) counts per bin, NaN = missing.
        starts: (B, K, H) initial conditions to start from.
        prior: Density of initial conditions.

    Returns:
        Initial conditions (B, K, H) and weights (B, K), in proportion to the posterior density.
    """
    repeated = spikes.repeat_interleave(starts.shape[1], 0)
    observed = (~repeated.isnan()).to(starts.dtype)
    counts = repeated.nan_to_num(nan=0.0).to(starts.dtype)

    def log_posterior(points: Tensor) -> Tensor:
        log_rates = decode(points)
        log_likelihood = (counts * log_rates - observed * log_rates.exp()).sum((1, 2))
        return log_likelihood + prior.log_density(points)

    points = starts.flatten(0, 1).clone().requires_grad_()
    optimizer = torch.optim.Adam([points], ASCENT_RATE)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, ASCENT_STEPS)
    for _ in range(ASCENT_STEPS):
        (points.grad,) = torch.autograd.grad(-log_posterior(points).sum(), points)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        weights = log_posterior(points).view(starts.shape[:2]).softmax(dim=1)
    return points.detach().view_as(starts), weights


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of the module's parameters."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad = True


def laplace_sd(
    model: nn.Module, spikes: Tensor, log_rates: Tensor, point: Tensor, prior: KernelDensity
) -> Tensor:
    """Return the standard deviation of expected counts (B, T, N) around `point` (B, H)."""
    n_hidden, n_bins = point.shape[1], spikes.shape[1]
    steps = DIFFERENCE * torch.linalg.inv(prior.whitening)  # a row: a direction's SD, in small
    moved = model.decode((point.unsqueeze(1) + steps).flatten(0, 1), n_bins)[0]
    moved = moved.unflatten(0, (-1, n_hidden))
    unmoved = model.decode(point, n_bins)[0].unsqueeze(1)
    slopes = ((moved - unmoved) / DIFFERENCE).flatten(2)  # (B, H, T N)
    # of each count about its log-rate
    information = log_rates.exp().masked_fill(spikes.isnan(), 0.0).flatten(1)
    precision = (slopes * information.unsqueeze(1)) @ slopes.mT
    # a kernel around each of many centres
    precision += torch.eye(n_hidden).to(precision) / (1 + prior.width**2)
    covariance = torch.linalg.inv(precision)
    variance = ((covariance @ slopes) * slopes).sum(1).clamp(min=0)
    return log_rates.exp() * variance.sqrt().view_as(log_rates)
