"""The choices of the refinement, each with its reason. docs/recipe.md has what they are worth."""

# The table of initial conditions
MAX_TRIALS = 2000  # training trials in it; with more, the matrix of all pairs takes too long
MAX_BATCH_SIZE = 208  # trials of a step; at most a third of the trials
MAX_STATE = 1e6  # a larger initial condition has diverged; states are between -1 and 1

# Lengths of the fits, as parts of the epochs. The fewer neurons are observed, the sooner a fit
# learns noise, one of own trajectories first.
LENGTHS = {"own": (1 / 8, 1 / 2), "shared": (1 / 3, 1)}
DRIVEN_STEPS = 6  # steps with inputs, for each epoch of the longest fit

# Learning rates: of decoder and readout, of the table, and of the whole model with inputs
LEARNING_RATE, TABLE_RATE, DRIVEN_RATE = 1.2e-2, 5e-2, 2e-2
TABLE_BETAS = 0.9, 0.99
PRIOR_WEIGHT = 2.0  # of the Gaussian prior over a table of own initial conditions

# Margins by which a way to infer must be better than the best so far, in standard errors
MARGIN = 1.0
ENCODER_MARGIN = 4.0  # the encoder was trained on these trials, so its score is optimistic

# Factors of the readout: the fewest whose loss is within so many standard errors of the least, and
# one and two more, because the fit has yet to find the exact directions
READOUT_MARGIN = 2.0
MORE_FACTORS = 1, 2
