"""The record of a conversion from a checkpoint's names to those of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Conversion:
    """A converted state dict, and the record of its conversion.

    Attributes:
        state_dict: Entries by the names of this package; only those that the model has with the same shape.
        mapped: ``(original name, our name)`` of each of these entries.
        missing: Our names that the checkpoint has no entry for.
        left_over: Original names that the model has no entry for.
        misshaped: ``our name: shape in the checkpoint, shape in the model``, for each entry with different shapes.
    """

    state_dict: dict[str, Tensor] = field(default_factory=dict)
    mapped: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)

    def put(self, name: str, ours: str | None, value: Tensor, model: Mapping[str, Tensor]) -> None:
        """Add an entry of the checkpoint if the model has an entry of the same shape; otherwise record the problem."""
        if ours is None or ours not in model:
            self.left_over.append(name)
        elif value.shape != model[ours].shape:
            self.misshaped.append(f'{ours}: {tuple(value.shape)}, the model has {tuple(model[ours].shape)}')
        else:
            self.mapped.append((name, ours))
            self.state_dict[ours] = value

    def finish(self, model: Mapping[str, Tensor]) -> Conversion:
        """Record the entries of the model that the checkpoint does not have; returns itself."""
        found = {*self.state_dict, *(line.split(':')[0] for line in self.misshaped)}
        self.missing = [name for name in model if name not in found]
        return self

    @property
    def complete(self) -> bool:
        """Whether the entries of the checkpoint and of the model correspond one to one."""
        return not (self.missing or self.left_over or self.misshaped)

    def report(self) -> str:
        """The counts, then every name with a problem, as text."""
        problems = {'missing': self.missing, 'left over': self.left_over, 'of another shape': self.misshaped}
        counts = ', '.join(f'{len(names)} {what}' for what, names in problems.items())
        lines = [f'{len(self.mapped)} mapped, {counts}']
        lines += [f'{what}: {name}' for what, names in problems.items() for name in names]
        return '\n'.join(lines)
