"""Settings that stay what they were when an object was made."""

from __future__ import annotations

from typing import Any


class ReadOnly:
    """Mixin whose settings are assigned once, by the constructor.

    What an object makes of its settings (a solver, a compiled function) doesn't follow a change,
    while its config would.

    Class attributes:
      read_only: Names of the settings.
      another: What to do instead, with `{name}` for the setting.
    """

    read_only: tuple[str, ...] = ()
    another = "Make another one."

    def __setattr__(self, name: str, value: Any) -> None:
        self._check_new(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._check_new(name)
        super().__delattr__(name)

    def _check_new(self, name: str) -> None:
        if name in self.read_only and name in vars(self):
            raise AttributeError(
                f"{type(self).__name__}.{name} is fixed at construction. "
                f"{self.another.format(name=name)}"
            )
