"""The exceptions and warnings that twigkit raises.

Every message says three things: what was given, what was expected, and what to do next. The command
line prints such a message on one line and exits with status 2; any other exception is a defect.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "CapabilityError",
    "CheckpointError",
    "FamilyWarning",
    "InputError",
    "PluginError",
    "PluginWarning",
    "RegistryError",
    "SpecError",
    "TrainingError",
    "TwigkitError",
    "first_line",
    "named_line",
]


def first_line(error: BaseException) -> str:
    """Return the first line of a message, or the error's name if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def named_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message, if it has one."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


class TwigkitError(Exception):
    """An error that the user can mend; the base class of all errors raised on purpose."""


class RegistryError(TwigkitError):
    """A name is unknown to the registry, or two distributions claim the same one."""


class PluginError(TwigkitError):
    """A plug-in breaks a rule of the hooks, or was built for another version of them."""


class SpecError(TwigkitError):
    """A spec does not validate; the message holds one line per problem."""


class BudgetError(TwigkitError):
    """A budget of visual tokens cannot be met by the layers at hand."""


class CheckpointError(TwigkitError):
    """A checkpoint is missing, damaged, or belongs to another base model."""


class CapabilityError(TwigkitError):
    """A model, head or strategy is asked for something that it does not offer."""


class InputError(TwigkitError):
    """A prompt, an image or an option cannot be used as given."""


class TrainingError(TwigkitError):
    """A training run cannot begin or go on; what it had saved is intact."""


class PluginWarning(UserWarning):
    """A plug-in was left out; the message names its distribution and the cause."""


class FamilyWarning(UserWarning):
    """A base is served, but something about it is undeclared or may make answers differ."""
