"""What a search for settings varies."""

from collections.abc import Callable
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, Namespace

from command_line import InputError

SPACE = Path(__file__).parent.parent / "configs" / "search.yaml"
FREE = (
    "model.",
    "trainer.",
    "data.batch_size",
)  # options that do not change what trainings are scored on
Space = dict[str, list | dict]  # option: its values, or `low`, `high` and `log`


def read_space(path: str | Path, parser: ArgumentParser, check: Callable[[dict], None]) -> Space:
    """Read what a search varies.

    Args:
        path: YAML file. For each option a list of values, or the lowest and the highest value.
        parser: Of the options of train.py.
        check: Raises InputError for settings (option: value) that no model can have.

    Raises:
        InputError: the file cannot be read, or it names an option that a search cannot vary, or a
            wrong value.
    """
    try:
        space = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"--space {path}: {error}; expected a YAML file like configs/search.yaml"
        ) from None
    if not isinstance(space, dict) or not space:
        raise InputError(
            f"--space {path}: expected options and their values, as in configs/search.yaml"
        )
    for name, values in space.items():
        if not str(name).startswith(FREE):
            raise InputError(
                f"--space {path}: {name} cannot be varied; expected options that start with {', '.join(FREE)}"
            )
        is_range = isinstance(values, dict) and {"low", "high"} <= set(values) <= {
            "low",
            "high",
            "log",
        }
        if not is_range and not (isinstance(values, list) and values):
            raise InputError(
                f"--space {path}: {name} is {values}; expected a list, or low and high"
            )

        def parse(value: object, name: str = name) -> object:
            """Return the value as train.py reads it."""
            try:
                parsed = parser.parse_object({name: value})[name]
                check({name: parsed})
            except Exception as error:
                raise InputError(
                    f"--space {path}: {name} cannot be {value}; {str(error).splitlines()[-1]}"
                ) from None
            return parsed

        if not is_range:
            space[name] = [parse(value) for value in values]
            continue
        values |= {end: parse(values[end]) for end in ("low", "high")}
        are_numbers = all(type(values[end]) in (int, float) for end in ("low", "high"))
        if (
            not are_numbers
            or values["low"] >= values["high"]
            or (values.get("log") and values["low"] <= 0)
        ):
            raise InputError(
                f"--space {path}: {name} is {values}; expected numbers, low < high, and low > 0 if log"
            )
    return space


def suggest(trial: object, space: Space) -> dict[str, object]:
    """Return settings that Optuna's trial suggests."""

    def value_of(name: str, values: list | dict) -> object:
        if isinstance(values, list):
            return trial.suggest_categorical(name, values)
        low, high, log = values["low"], values["high"], values.get("log", False)
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(name, low, high, log=log)
        return trial.suggest_float(name, low, high, log=log)

    return {name: value_of(name, values) for name, values in space.items()}


def with_settings(config: Namespace, settings: dict[str, object]) -> Namespace:
    """Return the options of a training with some of them set."""
    config = config.clone()
    for name, value in settings.items():
        config[name] = value
    return config
