"""The account of a checkpoint's names becoming those of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Conversion:
    """A converted state dict and the account of it.

    Attributes:
        state_dict: By this package's names; only entries that the model has, in its shapes.
        mapped: ``(original name, our name)`` of each of them.
        missing: Our names that the checkpoint gives nothing for.
        left_over: Original names that the model has no place for.
        misshaped: ``our name: what the checkpoint has, what the model has``, for each entry of another shape.
    """

    state_dict: dict[str, Tensor] = field(default_factory=dict)
    mapped: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)

    def put(self, name: str, ours: str | None, value: Tensor, model: Mapping[str, Tensor]) -> None:
        """Take an entry of the checkpoint over, if the model has a place of its shape."""
        if ours is None or ours not in model:
            self.left_over.append(name)
        elif value.shape != model[ours].shape:
            self.misshaped.append(f'{ours}: {tuple(value.shape)}, the model has {tuple(model[ours].shape)}')
        else:
            self.mapped.append((name, ours))
            self.state_dict[ours] = value

    def finish(self, model: Mapping[str, Tensor]) -> Conversion:
        """Note what the model has and the checkpoint does not; returns itself."""
        found = {*self.state_dict, *(line.split(':')[0] for line in self.misshaped)}
        self.missing = [name for name in model if name not in found]
        return self

    @property
    def complete(self) -> bool:
        """Whether every entry of the checkpoint has found its place and every place its entry."""
        return not (self.missing or self.left_over or self.misshaped)

    def report(self) -> str:
        """Counts, then every name that is not simply mapped."""
        problems = {'missing': self.missing, 'left over': self.left_over, 'of another shape': self.misshaped}
        counts = ', '.join(f'{len(names)} {what}' for what, names in problems.items())
        lines = [f'{len(self.mapped)} mapped, {counts}']
        lines += [f'{what}: {name}' for what, names in problems.items() for name in names]
        return '\n'.join(lines)
