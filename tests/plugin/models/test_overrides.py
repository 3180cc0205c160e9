"""Methods of this package accept every call that the method of MMDetection which they override accepts."""

from __future__ import annotations

import inspect
from inspect import Parameter

import pytest

pytest.importorskip('mmdet')

import mmdet.registry
import mmengine.registry
from mmdet.models.detectors import BaseDetector
from mmengine.registry import Registry

import bucketed_losses.mmdet  # noqa: F401  (registers the classes)
from bucketed_losses.mmdet.models.detectors import CalibratedDetectorMixin

# Outputs of branches that the heads do not have. `loss_by_feat` is called with what `forward` returns.
WITHOUT_BRANCH = {
    ('RankBasedATSSHead', 'loss_by_feat'): {'centernesses'},
    ('RankBasedCoATSSHead', 'loss_by_feat'): {'centernesses'},
    ('RankBasedDDODHead', 'loss_by_feat'): {'iou_preds'},
    ('RankBasedFCOSHead', 'loss_by_feat'): {'centernesses'},
    ('RankBasedNASFCOSHead', 'loss_by_feat'): {'centernesses'},
    ('RankBasedLADHead', 'get_label_assignment'): {'iou_preds'},
    ('RankBasedLADHead', 'loss_by_feat'): {'iou_preds'},
    ('RankBasedPAAHead', 'loss_by_feat'): {'iou_preds'},
}
VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def registered_classes():
    values = [value for package in (mmdet.registry, mmengine.registry) for value in vars(package).values()]
    found = {entry for value in values if isinstance(value, Registry) for entry in value.module_dict.values()}
    ours = [cls for cls in found if inspect.isclass(cls) and cls.__module__.startswith('bucketed_losses.')]
    # What `CalibratedDetector`, a function, builds.
    ours.append(type('CalibratedBaseDetector', (CalibratedDetectorMixin, BaseDetector), {'__module__': __name__}))
    return sorted(ours, key=lambda cls: cls.__name__)


def overrides(cls):
    """Names of methods, each with our definition and with the first one of another package after it."""
    names = {name for base in cls.__mro__ for name in vars(base) if callable(vars(base)[name])}
    for name in sorted(names - {'__init__', '__init_subclass__'}):
        definitions = [base for base in cls.__mro__ if name in vars(base)]
        ours = [base for base in definitions if base.__module__.startswith('bucketed_losses.')]
        theirs = [base for base in definitions if base.__module__.startswith(('mmdet.', 'mmengine.', 'torch.'))]
        if ours and theirs and definitions[0] is ours[0] and vars(theirs[0])[name].__name__ == name:
            yield name, vars(ours[0])[name], vars(theirs[0])[name]


def refused(ours, theirs, less=frozenset()):
    """Why some call of ``theirs`` is no call of ``ours``, or None; ``less`` are parameters that need not be there."""
    mine = list(inspect.signature(ours).parameters.values())[1:]
    wanted = [p for p in list(inspect.signature(theirs).parameters.values())[1:] if p.name not in less]
    kinds = {p.kind for p in mine}
    by_name = {p.name: p for p in mine}
    places = [p for p in mine if p.kind in POSITIONAL]
    for index, parameter in enumerate(p for p in wanted if p.kind in POSITIONAL):
        if index < len(places):
            if places[index].name != parameter.name:
                return f'position {index} is {places[index].name}, not {parameter.name}'
        elif Parameter.VAR_POSITIONAL not in kinds:
            return f'it does not take {parameter.name} by position'
    for parameter in wanted:
        if parameter.kind in VARIADIC:
            if parameter.kind not in kinds:
                return f'it does not take {parameter}'
        elif parameter.name not in by_name:
            if Parameter.VAR_KEYWORD not in kinds:
                return f'it does not take {parameter.name} by name'
        elif parameter.default is not Parameter.empty and by_name[parameter.name].default is Parameter.empty:
            return f'{parameter.name} has no default'
    names = {p.name for p in wanted}
    extra = [p.name for p in mine if p.name not in names and p.default is Parameter.empty and p.kind not in VARIADIC]
    return f'{extra} have no default' if extra else None


@pytest.mark.parametrize('cls', registered_classes(), ids=lambda cls: cls.__name__)
def test_overrides_accept_what_the_overridden_method_accepts(cls):
    problems = []
    for name, ours, theirs in overrides(cls):
        less = WITHOUT_BRANCH.get((cls.__name__, name), frozenset())
        reason = refused(ours, theirs, less) or (less and not refused(ours, theirs) and 'it needs no exception')
        if reason:
            problems.append(f'{ours.__qualname__} overrides {theirs.__qualname__}: {reason}')
    assert not problems


def test_what_is_refused():
    class Theirs:
        def method(self, a, b=1, *, c=2):
            """What callers know."""

    def method(self, a, b=1, *args, c=2, d=3):
        """More is fine."""

    assert refused(method, Theirs.method) is None
    for ours, reason in (
        (lambda self, a, *, b=1, c=2: None, 'b by position'),
        (lambda self, b, a=1, *, c=2: None, 'position 0 is b, not a'),
        (lambda self, a, b, *, c=2: None, 'b has no default'),
        (lambda self, a, b=1: None, 'c by name'),
        (lambda self, a, b=1, *, c=2, d: None, "'d'"),
        (lambda self, *args, c=2: None, 'a by name'),
    ):
        assert reason in refused(ours, Theirs.method)
