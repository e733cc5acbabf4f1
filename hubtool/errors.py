"""Every error that hubtool raises on purpose.

    HubtoolError            something a user can understand and mend
    ├── ReadError           a file or folder is missing, damaged, hostile or of another kind
    ├── WriteError          a target cannot be written, or exists already
    ├── UnsupportedError    the model is valid, but holds what hubtool (or one backend) cannot do
    ├── BackendError        a backend or device is unknown or not available here
    ├── InputError          a fed value has the wrong name, shape, dtype or device
    ├── RunError            a layer failed while it ran
    ├── VerifyError         two engines disagree by more than the stated tolerance
    └── HubError            a hub refused, cannot be reached, or gave something damaged

An error holds *all* problems that were found, not the first one, and ends with the next step.
The command line maps the tree to exit code 1 in one place (`hubtool.cli`).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BackendError",
    "HubError",
    "HubtoolError",
    "InputError",
    "ReadError",
    "RunError",
    "UnsupportedError",
    "VerifyError",
    "WriteError",
]

SHOWN = 20


class HubtoolError(Exception):
    """What went wrong, every single problem, and what to do next.

    `problems` are printed as a list below the message (at most 20 of them, the rest counted);
    `hint` is the last line.
    """

    def __init__(self, message: str, *, problems: Sequence[str] = (), hint: str = "") -> None:
        self.message = message
        self.problems = list(problems)
        self.hint = hint
        super().__init__(message)

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {problem}" for problem in self.problems[:SHOWN])]
        if len(self.problems) > SHOWN:
            lines.append(f"  … and {len(self.problems) - SHOWN} more")
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)


class ReadError(HubtoolError):
    """A file or folder is missing, damaged, hostile or of another kind."""


class WriteError(HubtoolError):
    """A target cannot be written, or exists already."""


class UnsupportedError(HubtoolError):
    """The model is valid, but holds what hubtool or a backend cannot do."""


class BackendError(HubtoolError):
    """A backend or device is unknown or not available here."""


class InputError(HubtoolError):
    """A fed value has the wrong name, shape, dtype or device."""


class RunError(HubtoolError):
    """A layer failed while it ran."""


class VerifyError(HubtoolError):
    """Two engines disagree by more than the stated tolerance."""


class HubError(HubtoolError):
    """A hub refused, cannot be reached, or gave something damaged."""
