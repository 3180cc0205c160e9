"""Stock heads and detectors of MMDetection that have no ranking form, with the reason and what works instead."""

from __future__ import annotations

from typing import Any

from mmdet.models.dense_heads import (
    ATSSHead,
    ATSSVLFusionHead,
    AutoAssignHead,
    CenterNetHead,
    CenterNetUpdateHead,
    CentripetalHead,
    CornerHead,
    DINOHead,
    FCOSHead,
    FreeAnchorRetinaHead,
    GroundingDINOHead,
    RetinaHead,
)
from mmdet.models.detectors import Detectron2Wrapper
from mmdet.models.reid import BaseReID
from mmdet.models.roi_heads import MultiInstanceRoIHead, StandardRoIHead

from .recipes import no_ranking_form


def _detector_of_mmdetection(model: dict[str, Any]) -> str:
    """The config of MMDetection with the detector that a ``Detectron2Wrapper`` contains."""
    detector = model.get('detector') or {}
    if detector.get('meta_architecture') == 'RetinaNet':
        return 'mmdet::retinanet/retinanet_r50-caffe_fpn_ms-1x_coco.py'
    if detector.get('mask_on'):
        return 'mmdet::mask_rcnn/mask-rcnn_r50-caffe_fpn_ms-poly-1x_coco.py'
    return 'mmdet::faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-90k_coco.py'


no_ranking_form(
    FreeAnchorRetinaHead,
    reason=(
        'it weights the anchors of a bag by their probabilities of class and box, and a ranking loss needs each anchor '
        'to be positive or negative'
    ),
    instead=RetinaHead,
)
no_ranking_form(
    AutoAssignHead,
    reason=(
        'each location in an object is positive and negative at once, with weights from its probabilities and from a '
        'centre prior that learns through them, and a ranking loss needs each location to be one of both'
    ),
    instead=FCOSHead,
)
no_ranking_form(
    MultiInstanceRoIHead,
    reason=(
        'it predicts two boxes for each proposal and chooses their order by the loss of each order, and a ranking loss '
        'has no value for a single proposal'
    ),
    instead=StandardRoIHead,
)
no_ranking_form(
    Detectron2Wrapper,
    reason='Detectron2 builds its heads and computes their losses, so a loss of MMDetection cannot be put into them',
    instead=_detector_of_mmdetection,
)
no_ranking_form(
    CornerHead,
    CentripetalHead,
    reason='it scores the corners of boxes in heat maps, and a ranking loss labels scores of boxes with their IoUs',
)
no_ranking_form(
    CenterNetHead,
    reason='it scores the centres of boxes in heat maps, and a ranking loss labels scores of boxes with their IoUs',
    instead=CenterNetUpdateHead,
)
_TEXT = (
    'it scores boxes against the tokens of a text, with the rest of the tokens as padding, and a ranking loss needs a '
    'score for each class'
)
no_ranking_form(ATSSVLFusionHead, reason=_TEXT, instead=ATSSHead)
no_ranking_form(GroundingDINOHead, reason=_TEXT, instead=DINOHead)
no_ranking_form(BaseReID, reason='it identifies objects in cut-out images and scores no boxes')
