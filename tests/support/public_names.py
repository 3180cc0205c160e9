"""The public modules of the package and the names in them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec


def public_modules():
    """Modules with a list of public names that a user imports from."""
    yield from ('bucketed_losses.functional', 'bucketed_losses.modules', 'bucketed_losses.compat')
    if find_spec('mmdet') is not None:
        for part in ('datasets', 'engine', 'evaluation', 'swap'):
            yield f'bucketed_losses.mmdet.{part}'
        for part in ('losses', 'dense_heads', 'roi_heads', 'detectors', 'backbones'):
            yield f'bucketed_losses.mmdet.models.{part}'


def public_names():
    """Full names of public functions and classes."""
    names = {(module, name) for module in public_modules() for name in import_module(module).__all__}
    # The pages describe constants in their text.
    return {f'{module}.{name}' for module, name in names if callable(getattr(import_module(module), name))}
