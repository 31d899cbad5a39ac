"""Start a training from the weights of an earlier one, as a model of all neurons that is to adapt
to few."""

from typing import Literal

from command_line import InputError
from evaluation.checkpoints import load_checkpoint
from model import SequentialAutoencoder

Part = Literal["encoder", "generator"]
MODULES = {"encoder": ("encoder", "ic_linear", "input_linear"), "generator": ("decoder", "readout")}


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
    if not set(freeze) <= set(keep):
        raise InputError(
            f"--freeze {' '.join(freeze)}: expected parts that --init_parts keeps: {' '.join(keep)}"
        )
    if set(freeze) == set(MODULES):
        raise InputError(f"--freeze {' '.join(freeze)}: expected a part that is left to train")
    trained, _ = load_checkpoint(checkpoint)
    for name in ("n_neurons", "n_heldin", "hidden_size", "input_size"):
        if trained.hparams.get(name) != model.hparams.get(name):
            raise InputError(
                f"--init_from {checkpoint}: its {name} is {trained.hparams.get(name)}; expected "
                f"{model.hparams.get(name)}, as in this training"
            )
    for part in keep:
        for name in MODULES[part]:
            module = getattr(model, name)
            if module is not None:
                module.load_state_dict(getattr(trained, name).state_dict())
                module.requires_grad_(part not in freeze)
    if "generator" in keep:
        model.hparams.start_at_mean_rates = False  # the readout has learned its bias
        model.decoder.weight_ih_l0.requires_grad_(
            model.hparams.input_size > 0 and "generator" not in freeze
        )
