"""A detector that maps the scores of its detections to precisions."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from torch import Tensor, nn

from .auxiliary_heads import QUERY_HEAD

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector as _Host
else:
    _Host = object

# The share of the original score in a mapped score. It makes the map strictly increasing: without it, plateaus of an
# isotonic fit would create ties between detections and change AP.
TILT = 1e-3


class ScoreCalibration(nn.Module):
    """A strictly increasing map from score to precision for every class. Its buffers are saved in checkpoints.

    Between its knots the map is linear: ``(1 - TILT) * interpolation + TILT * score``. A new map is the identity.

    Args:
        num_classes: Number of classes of the detector.
        num_knots: Number of knots of each map, 2 or more.

    Attributes:
        knots: ``(num_classes, num_knots)`` float64 scores, not decreasing along each row.
        values: ``(num_classes, num_knots)`` float64 precisions in [0, 1], not decreasing along each row.
    """

    knots: Tensor
    values: Tensor

    def __init__(self, num_classes: int, num_knots: int) -> None:
        super().__init__()
        if num_knots < 2:
            raise ValueError(f'ScoreCalibration: num_knots must be at least 2, got {num_knots}')
        identity = torch.linspace(0, 1, num_knots, dtype=torch.float64).expand(num_classes, -1)
        self.register_buffer('knots', identity.clone())
        self.register_buffer('values', identity.clone())

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Precisions ``(n,)`` of scores ``(n,)`` of classes ``(n,)``; float64 keeps different scores different."""
        x = scores.double()
        knots, values = self.knots.double(), self.values.double()
        right = _num_below(knots, labels, x).clamp(1, knots.size(1) - 1)
        x0, x1 = knots[labels, right - 1], knots[labels, right]
        y0, y1 = values[labels, right - 1], values[labels, right]
        share = ((x - x0) / (x1 - x0).clamp(min=torch.finfo(torch.float64).tiny)).clamp(0, 1)
        return (1 - TILT) * (y0 + share * (y1 - y0)) + TILT * x


def _num_below(knots: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """How many knots of its class are below each score, ``(n,)``: a bisection, which needs ``O(n)`` memory."""
    low = torch.zeros_like(labels)
    high = torch.full_like(labels, knots.size(1))
    for _ in range(knots.size(1).bit_length()):
        middle = (low + high) // 2
        below = (knots[labels, middle.clamp(max=knots.size(1) - 1)] < scores) & (low < high)
        low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
    return low


class CalibratedDetectorMixin(_Host):
    """A mixin for MMDetection's detectors: it maps scores to precisions, and applies ``score_thr`` to the precisions.

    The head's own threshold is set to 0, so that the threshold in the config applies to the mapped scores. The maps are
    strictly increasing within a class, so they do not change the order of its detections, nor AP.

    Args:
        calibration: Arguments of :class:`ScoreCalibration`; ``bucketed-losses calibrate`` writes them.
        args, kwargs: As for the detector.
    """

    def __init__(self, *args: Any, calibration: dict, test_cfg: Any = None, **kwargs: Any) -> None:
        test_cfg = copy.deepcopy(test_cfg)
        score_thr = take_score_threshold(test_cfg, two_stage='roi_head' in kwargs)
        super().__init__(*args, test_cfg=test_cfg, **kwargs)
        self.score_thr = score_thr
        self.calibration = ScoreCalibration(**calibration)

    def add_pred_to_datasample(self, data_samples: SampleList, results_list: InstanceList) -> SampleList:
        calibrated = []
        for results in results_list:
            results.scores = self.calibration(results.scores, results.labels)
            calibrated.append(results[results.scores >= self.score_thr])
        return super().add_pred_to_datasample(data_samples, calibrated)


def take_score_threshold(test_cfg: Any, two_stage: bool) -> float:
    """Set the threshold on final detections in a detector's ``test_cfg`` to 0, in place, and return what it was.

    If there is a list with a part for each head, all are set to 0, and the highest is returned.
    """
    if not test_cfg:
        return 0.0
    key = threshold_part(test_cfg, two_stage)
    found = test_cfg if key is None else test_cfg[key]
    parts = found if isinstance(found, (list, tuple)) else [found]
    threshold = max(part.get('score_thr', 0.0) for part in parts)
    for part in parts:
        if 'score_thr' in part:
            part['score_thr'] = 0.0
    return float(threshold)


def threshold_part(test_cfg: Any, two_stage: bool) -> str | None:
    """The part of a detector's ``test_cfg`` that has the threshold on final detections; None for ``test_cfg`` itself.

    Args:
        test_cfg: Its ``head`` may name an auxiliary head of Co-DETR or Co-DINO, e.g. ``'roi0'`` or ``'atss1'``.
        two_stage: Whether the detector has a ``roi_head``.
    """
    head = (test_cfg or {}).get('head', QUERY_HEAD)
    if two_stage or head.startswith('roi'):
        return 'rcnn'
    return None if head == QUERY_HEAD else 'dense'


@MODELS.register_module()
def CalibratedDetector(detector: str, calibration: dict, **kwargs: Any) -> nn.Module:  # noqa: N802  (named in configs)
    """A detector with :class:`CalibratedDetectorMixin`, by the name of its type.

    Args:
        detector: Type of the detector, e.g. ``'ATSS'``.
        calibration: ``dict(num_classes=..., num_knots=...)``.
        kwargs: The other keys of the detector's config.

    Raises:
        KeyError: There is no such detector.
    """
    host = MODELS.get(detector)
    if host is None:
        raise KeyError(f'CalibratedDetector: detector must be the type of a registered detector, got {detector!r}')
    return _calibrated(host)(calibration=calibration, **kwargs)


@functools.cache
def _calibrated(host: type) -> type:
    # The class belongs to no module, so pickle cannot look it up: it makes it again from the detector's class.
    return type(f'Calibrated{host.__name__}', (CalibratedDetectorMixin, host), {'__reduce__': _reduce})


def _reduce(detector: nn.Module) -> tuple:
    return _without_state, type(detector).__bases__[1:], detector.__dict__


def _without_state(host: type) -> nn.Module:
    return nn.Module.__new__(_calibrated(host))
