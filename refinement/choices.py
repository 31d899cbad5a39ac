"""The choices of the refinement, each with its reason. docs/recipe.md has what they are worth."""

# The table of initial conditions
MAX_TRIALS = 2000  # training trials in it; with more, the matrix of all pairs takes too long
MAX_BATCH_SIZE = 208  # trials of a step; at most a third of the trials
MAX_STATE = 1e6  # a larger initial condition has diverged; states are between -1 and 1

# Lengths of the fits, as parts of the epochs: of short ones, by which a kind is chosen, and of long
# ones. The fewer neurons are observed, the sooner a fit learns noise, own trajectories first.
SHORT = {"own": 1 / 8, "shared": 1 / 3, "driven": 1 / 2}
LONG = {"own": 1 / 2, "shared": 1, "driven": 2}
DRIVEN_STEPS = 6  # steps with inputs in an epoch

# Learning rates: of decoder and readout, of the table, and of the whole model with inputs
LEARNING_RATE, TABLE_RATE, DRIVEN_RATE = 1.2e-2, 5e-2, 2e-2
TABLE_BETAS = 0.9, 0.99
PRIOR_WEIGHT = 2.0  # of the Gaussian prior over a table of own initial conditions

# Margins by which a way to infer must be better than the best so far, in standard errors
MARGIN = 1.0
NEAR = 3.0  # a short fit with inputs that is worse by less may become better in a long one
# the encoder was trained on these trials, so its score is optimistic
DRIVEN_MARGIN, ENCODER_MARGIN = 2.0, 4.0

# Factors of the readout: the fewest whose loss is within so many standard errors of the least, and
# one and two more, because the fit has yet to find the exact directions
READOUT_MARGIN = 2.0
MORE_FACTORS = 1, 2
