"""Start a run from the weights of an earlier one, as a model of all neurons that adapts to few."""

import math

from command_line import expect
from evaluation.checkpoints import load_checkpoint
from model import SequentialAutoencoder
from training.flags import Part

MODULES = {"encoder": ("encoder", "ic_linear"), "generator": ("decoder", "readout")}


def start_from(
    model: SequentialAutoencoder, checkpoint: str, keep: list[Part], freeze: list[Part]
) -> None:
    """Give a new model parts of a trained one.

    Args:
        model: The new model.
        checkpoint: Checkpoint of the trained one.
        keep: Parts to take from it: the encoder, the generator (decoder and readout), or both.
        freeze: Parts that the training must not change.

    Raises:
        InputError: a checkpoint that cannot be read or does not fit the model, a frozen part that
            is not kept, or nothing to train.
    """
    frozen, kept = " ".join(freeze), " ".join(keep)
    is_kept = set(freeze) <= set(keep)
    expect(is_kept, "--freeze", frozen, f"parts that --init_parts keeps: {kept}")
    expect(set(freeze) != set(MODULES), "--freeze", frozen, "a part that is left to train")
    trained, _ = load_checkpoint(checkpoint)
    for name in ("n_neurons", "bin_width", "n_heldin", "hidden_size"):
        found, expected = (hparams.get(name) for hparams in (trained.hparams, model.hparams))
        flag = f"--init_from {checkpoint}: its {name} is"
        is_right = found == expected or (name == "bin_width" and math.isclose(found, expected))
        expect(is_right, flag, found, f"{expected}, as in this run")
    trained.set_inputs(0)  # as every run starts
    for part in keep:
        for name in MODULES[part]:
            module = getattr(model, name)
            module.load_state_dict(getattr(trained, name).state_dict())
            module.requires_grad_(part not in freeze)
    if "generator" in keep:
        model.hparams.start_at_mean_rates = False  # the readout has learned its bias
        model.decoder.weight_ih_l0.requires_grad_(False)  # there is no input
