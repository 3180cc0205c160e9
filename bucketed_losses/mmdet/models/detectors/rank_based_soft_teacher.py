"""Soft Teacher with a student and a teacher that are trained with a ranking loss."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmdet.models.detectors import SoftTeacher
from mmdet.models.utils import filter_gt_instances, unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi, bbox_project
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..losses import ImageRows, RankingLoss
from ..losses.box_weighting import maps_without_bfloat16
from ..recipes import Note, Part, Role, Rule, ranking_head


def _thresholds_of_scores() -> Rule:
    def apply(part: Part) -> Iterator[Note]:
        yield Note(
            'semi_train_cfg: pseudo_label_initial_score_thr, rpn_pseudo_thr and cls_pseudo_thr are compared with '
            'ranking scores, which are not probabilities and start near 0.5: train the detector on the labelled images '
            'first, start from it (model.detector.init_cfg), and choose them between its scores of objects and of '
            'background; otherwise nearly all background of unlabelled images is ignored'
        )
        yield Note(
            'background RoIs of unlabelled images are not weighted by the background score of the teacher, which a '
            'ranking loss does not have; they are ignored if the teacher gives a class at least '
            'pseudo_label_initial_score_thr'
        )

    return Rule((), apply)


@ranking_head(
    SoftTeacher,
    role=Role.AROUND,
    rules=(_thresholds_of_scores(),),
    reason='ignores uncertain background, which a ranking loss cannot weight',
)
@MODELS.register_module()
class RankBasedSoftTeacher(SoftTeacher):
    """``SoftTeacher`` around a Faster R-CNN with ranking heads; arguments as for MMDetection's detector.

    Soft Teacher weights each background RoI of an unlabelled image by the background score that the teacher gives it.
    A ranking loss has neither such weights nor a background score. Here, a background RoI is ignored if the highest
    score that the teacher gives it is at least ``semi_train_cfg.pseudo_label_initial_score_thr``: it may be an object
    that is not certain enough for a pseudo-label. The box loss of unlabelled images is computed from the pseudo-labels
    with a low box uncertainty, as in MMDetection's detector, and is balanced to the ranking of the same RoIs.

    Raises:
        ValueError: A ranking loss has a memory. It would hold batches of labelled and of unlabelled images in turn.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, module in self.student.named_modules():
            if isinstance(module, RankingLoss) and module.memory:
                raise ValueError(
                    f'{type(self).__name__}: memory of {name} must be 0, got {module.memory}; a step computes the loss '
                    'of labelled and of unlabelled images, which would remember each other'
                )

    def rcnn_cls_loss_by_pseudo_instances(
        self,
        x: tuple[Tensor, ...],
        unsup_rpn_results_list: InstanceList,
        batch_data_samples: SampleList,
        batch_info: dict,
    ) -> dict[str, Tensor]:
        """Ranking losses of unlabelled images; arguments as for :class:`mmdet.models.SoftTeacher`.

        Returns:
            The losses of the box head.
        """
        roi_head = self.student.roi_head
        samples = filter_gt_instances(copy.deepcopy(batch_data_samples), score_thr=self.semi_train_cfg.cls_pseudo_thr)
        instances, ignored, _ = unpack_gt_instances(samples)
        sampling_results = []
        for index, proposals in enumerate(copy.deepcopy(unsup_rpn_results_list)):
            proposals.priors = proposals.pop('bboxes')
            assigned = roi_head.bbox_assigner.assign(proposals, instances[index], ignored[index])
            sampling_results.append(roi_head.bbox_sampler.sample(assigned, proposals, instances[index]))
        rois = bbox2roi([result.priors for result in sampling_results])
        predicted = roi_head._bbox_forward(maps_without_bfloat16(x), rois)
        labels, weights, *targets = roi_head.bbox_head.get_targets(sampling_results, self.student.train_cfg.rcnn)
        scores = self._teacher_scores([result.priors for result in sampling_results], batch_data_samples, batch_info)
        uncertain = scores >= self.semi_train_cfg.pseudo_label_initial_score_thr
        weights = weights.masked_fill(uncertain & (labels == roi_head.bbox_head.num_classes), 0)
        return roi_head.bbox_head.loss(
            predicted['cls_score'],
            predicted['bbox_pred'],
            rois,
            labels,
            weights,
            *targets,
            images=ImageRows(rois[:, 0].long(), len(sampling_results)),
        )

    @torch.no_grad()
    def _teacher_scores(self, boxes: list[Tensor], batch_data_samples: SampleList, batch_info: dict) -> Tensor:
        """``(n,)`` the highest scores that the teacher gives to boxes ``(num_rois, 4)`` of the student's images."""
        projected = []
        for own, sample, matrix, shape in zip(
            boxes, batch_data_samples, batch_info['homography_matrix'], batch_info['img_shape'], strict=True
        ):
            to_teacher = matrix @ torch.as_tensor(sample.homography_matrix, device=matrix.device).inverse()
            projected.append(InstanceData(bboxes=bbox_project(own, to_teacher, shape)))
        features = maps_without_bfloat16(batch_info['feat'])
        results = self.teacher.roi_head.predict_bbox(
            features, batch_info['metainfo'], projected, rcnn_test_cfg=None, rescale=False
        )
        return torch.cat([result.scores[:, :-1].amax(dim=1) for result in results])
