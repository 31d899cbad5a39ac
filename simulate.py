"""Simulate the demonstration's data: Poisson spikes of neurons that a Lorenz system drives.

python simulate.py             rebuild lorenz_data.h5, bit for bit
python simulate.py --help      list the parameters
"""

import h5py
import jsonargparse
import numpy as np

from command_line import atomic_write, expect, run

VERSION = 1  # of the generator; increase it when the same seed gives another file
LORENZ_PER_BIN = 0.07  # Lorenz time units in a bin
BURN_IN = 2.0  # Lorenz time units from a random state to the attractor
STEPS_PER_BIN = 60  # RK4 steps; their error is far below the Poisson noise
PUSH = 20.0  # length of a push; the dimensions of the Lorenz system have SDs of 8 to 9


def lorenz_derivative(state: np.ndarray) -> np.ndarray:
    """Return the time derivative of `state` (..., 3), with sigma 10, rho 28, beta 8/3."""
    x, y, z = state[..., 0], state[..., 1], state[..., 2]
    return np.stack([10.0 * (y - x), x * (28.0 - z) - y, x * y - (8.0 / 3.0) * z], axis=-1)


def rk4_step(state: np.ndarray, step: float) -> np.ndarray:
    """Advance `state` (..., 3) by `step` Lorenz time units, by fourth-order Runge-Kutta."""
    k1 = lorenz_derivative(state)
    k2 = lorenz_derivative(state + 0.5 * step * k1)
    k3 = lorenz_derivative(state + 0.5 * step * k2)
    k4 = lorenz_derivative(state + step * k3)
    return state + (step / 6.0) * (k1 + 2.0 * k2 + 2.0 * k3 + k4)


def lorenz_latents(
    rng: np.random.Generator, conditions: int, bins: int, pushes: np.ndarray | None = None
) -> np.ndarray:
    """Return Lorenz trajectories (conditions, bins, 3), z-scored over trajectories and time.

    `pushes` (conditions, trials, bins, 3) are added to the state before each bin. With them the
    trajectories are those of trials: (conditions * trials, bins, 3).
    """
    state = rng.normal(0.0, 8.0, (conditions, 3)) + np.array([0.0, 0.0, 25.0])
    step = LORENZ_PER_BIN / STEPS_PER_BIN
    for _ in range(round(BURN_IN / step)):
        state = rk4_step(state, step)
    if pushes is not None:
        state, pushes = np.repeat(state, pushes.shape[1], axis=0), pushes.reshape(-1, bins, 3)
    trajectory = [state]
    for i in range(1, bins):
        state = state if pushes is None else state + pushes[:, i]
        for _ in range(STEPS_PER_BIN):
            state = rk4_step(state, step)
        trajectory.append(state)
    latents = np.stack(trajectory, axis=1)
    return (latents - latents.mean((0, 1))) / latents.std((0, 1))


def random_pushes(seed: int, shape: tuple[int, int, int], pulses: int) -> np.ndarray:
    """Return pushes (*shape, 3) in `pulses` bins of each trial, for (conditions, trials, bins).

    They come in the middle three fifths of a trial, in a random direction.
    """
    rng = np.random.default_rng([seed, 1])
    *trials, bins = shape
    first, last = bins // 5, bins - bins // 5
    order = rng.random((*trials, last - first)).argsort(axis=-1)
    directions = rng.normal(size=(*shape, 3))
    pushes = PUSH * directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    is_pulse = np.zeros(shape, bool)
    is_pulse[..., first:last] = order < pulses
    return pushes * is_pulse[..., None]


def random_loadings(rng: np.random.Generator, neurons: int) -> np.ndarray:
    """Return loadings (3, neurons): strong on x, of either sign, but for two; weak on y and z."""
    negative = round(neurons * 12 / 29)
    on_x = rng.uniform(0.65, 1.0, neurons) * np.where(np.arange(neurons) < negative, -1.0, 1.0)
    on_x[rng.choice(neurons, size=min(2, neurons), replace=False)] *= 0.2
    return np.stack([np.sort(on_x), *rng.normal(0.0, 0.12, (2, neurons))])


def map_to_rates(
    latents: np.ndarray, loadings: np.ndarray, log_rate_sd: float, mean_rate: float
) -> np.ndarray:
    """Map latents (conditions, bins, 3) to firing rates (conditions, bins, neurons) in spikes/s.

    The rates are rounded to single precision, in which they are stored. So the counts drawn from
    them do not depend on the last bits of a machine's `exp`.
    """
    log_rates = sum(latents[..., i, None] * loadings[i] for i in range(3))
    with np.errstate(over="ignore", invalid="ignore"):  # `simulate` checks the result
        rates = np.exp(log_rates * (log_rate_sd / log_rates.std()))
        return (rates * (mean_rate / rates.mean())).astype(np.float32)


def split_trials(
    rng: np.random.Generator, conditions: int, trials: int, valid_fraction: float
) -> np.ndarray:
    """Choose validation trials (conditions, trials; bool), nearly as many of each condition."""
    each, left_over = divmod(round(conditions * trials * valid_fraction), conditions)
    n_valid = np.full(conditions, each)
    n_valid[rng.choice(conditions, size=left_over, replace=False)] += 1
    order = rng.permuted(np.tile(np.arange(trials), (conditions, 1)), axis=1)
    return order < n_valid[:, None]


def simulate(
    path: str = "lorenz_data.h5",
    conditions: int = 65,
    trials: int = 24,
    neurons: int = 29,
    bins: int = 50,
    bin_width: float = 0.02,
    mean_rate: float = 15.0,
    log_rate_sd: float = 1.25,
    valid_fraction: float = 0.2,
    pulses: int = 0,
    seed: int = 5,
) -> None:
    """Simulate spikes driven by a latent Lorenz system and write them to an HDF5 file.

    Args:
        path: HDF5 file to write. An existing one is replaced.
        conditions: Number of initial states of the Lorenz system (conditions).
        trials: Number of trials of each condition.
        neurons: Number of neurons.
        bins: Number of time bins in a trial, each 0.07 Lorenz time units.
        bin_width: Width of a time bin (s).
        mean_rate: Mean firing rate over neurons, conditions and time (spikes/s).
        log_rate_sd: Standard deviation of the log rates over neurons, conditions and time.
        valid_fraction: Fraction of the trials for validation.
        pulses: Bins of each trial in which a random push moves the Lorenz system. They are in the
            file as train_pulses and valid_pulses (trials, bins), bool.
        seed: Seed of all random numbers. The same seed gives the same file, bit for bit.

    Raises:
        InputError: a parameter outside its range.
    """
    positive = {"conditions": conditions, "trials": trials, "neurons": neurons, "bins": bins}
    positive |= {"bin_width": bin_width, "mean_rate": mean_rate, "log_rate_sd": log_rate_sd}
    for name, value in positive.items():
        expect(0 < value < np.inf, f"--{name}", value, "a number above 0")
    n_trials, most_pulses = conditions * trials, bins // 5
    both_splits = 1 <= round(n_trials * valid_fraction) < n_trials
    expect(both_splits, "--valid_fraction", valid_fraction, f"some of {n_trials} trials, not all")
    expect(conditions * bins > 1, "--conditions 1 --bins", bins, "more than one bin, to vary")
    expect(0 <= pulses <= most_pulses, "--pulses", pulses, f"0 to {most_pulses}, a fifth of --bins")
    expect(seed >= 0, "--seed", seed, "a whole number of at least 0")

    rng, shape = np.random.default_rng(seed), (conditions, trials, bins)
    pushes = random_pushes(seed, shape, pulses) if pulses else None
    latents = lorenz_latents(rng, conditions, bins, pushes)
    rates = map_to_rates(latents, random_loadings(rng, neurons), log_rate_sd, mean_rate)
    flags, most = f"--mean_rate {mean_rate} --log_rate_sd", "under a million spikes in a bin"
    expect(rates.max() * bin_width < 1e6, flags, log_rate_sd, most)
    expected = rates.reshape(conditions, -1, bins, neurons) * np.float64(bin_width)
    spikes = rng.poisson(expected, (*shape, neurons))
    spikes = spikes.astype(np.uint8 if spikes.max() < 256 else np.uint32)
    is_valid = split_trials(rng, conditions, trials, valid_fraction)

    packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(bin_width=bin_width, rate_unit="spikes/s", seed=seed)
        file.attrs.update(generator="simulate.py", generator_version=VERSION)
        for split, chosen in (("train", ~is_valid), ("valid", is_valid)):
            condition = np.nonzero(chosen)[0]  # trials ordered by condition compress well
            file.create_dataset(f"{split}_data", data=spikes[chosen], chunks=True, **packed)
            rows = condition if pushes is None else np.flatnonzero(chosen)
            for key, array in (("truth", rates), ("latents", latents.astype(np.float32))):
                chunks = (min(32, len(condition)), *array.shape[1:])
                file.create_dataset(f"{split}_{key}", data=array[rows], chunks=chunks, **packed)
            if pushes is not None:
                file[f"{split}_pulses"] = pushes.any(-1)[chosen]
            file[f"{split}_condition"] = condition.astype(np.int32)


def main() -> None:
    jsonargparse.auto_cli(simulate, as_positional=False, exit_on_error=False, allow_abbrev=False)


if __name__ == "__main__":
    run(main)
