"""YOLOv3 trained with a ranking loss in place of its losses of classes and confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.dense_heads import YOLOV3Head
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..losses import PositiveBoxes
from ..losses.box_weighting import at_least_float32, nan_if_not_finite, score_weights, weighted_mean
from ..recipes import Role, ranking_head
from ..rules import ranking_loss, without_effect
from .joint_logits import product_logit
from .ranking_mixin import RankingHeadMixin, flatten_maps, flatten_targets


@dataclass(frozen=True)
class EncodedBoxes(PositiveBoxes):
    """Boxes whose losses are those of their encoded coordinates. Only aLRP Loss uses ``loss_bbox``."""

    def weighted_losses(self, shared: bool, equally: bool) -> dict[str, Tensor]:
        return dict(self.other_losses)


_RULES = (
    ranking_loss(),
    without_effect('test_cfg', conf_thr='detections are chosen by the score, which score_thr limits'),
)


@ranking_head(YOLOV3Head, role=Role.DENSE, rules=_RULES, unused=['loss_conf', 'one_hot_smoother'])
@MODELS.register_module()
class RankBasedYOLOV3Head(RankingHeadMixin, YOLOV3Head):
    """``YOLOV3Head`` trained with a ranking loss.

    All levels and images are ranked together. The score is the product of the probabilities of the confidence and of
    the class, as in ``YOLOV3Head``. Its logit is what is ranked, because detections are sorted by it. The ranking loss
    trains both, so the head has no loss of the confidence. The target of a positive is the IoU of its box. The losses
    of centres and of sizes stay. They are means over positives, weighted by scores, and balanced together. aLRP Loss
    uses the GIoU errors of the boxes in addition.

    At inference, ``score_thr`` and ``nms_pre`` of ``test_cfg`` apply to the score, too, and ``conf_thr`` has no effect.
    ``YOLOV3Head`` chooses by one of the two factors, which a ranking loss trains only together.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_conf: Not used; accepted so that a config may inherit one written for ``YOLOV3Head``.
        kwargs: As for :class:`mmdet.models.YOLOV3Head`. The biases of classes and confidence start with a score of 0.5.
    """

    classifiers = ('convs_pred',)
    num_factors = 2
    own_init = True
    box_losses = ()

    def __init__(self, *args: Any, loss_cls: dict, loss_conf: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, loss_cls=loss_cls, **kwargs)
        del self.loss_conf
        self.loss_bbox = MODELS.build(dict(type='GIoULoss'))

    def classifier_biases(self) -> list[Tensor]:  # type: ignore[override]
        """Views of the biases of confidence and classes in the predicting layer of every level."""
        biases = super().classifier_biases()
        return [bias.view(self.num_base_priors, self.num_attrib)[:, 4:] for bias in biases]

    def loss_by_feat(
        self,
        pred_maps: tuple[Tensor, ...],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.YOLOV3Head.loss_by_feat`.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses), ``loss_xy`` and ``loss_wh``. If there is no positive, all are 0
            and connected to the predictions, except with DR Loss or a memory.
        """
        num_images = len(batch_img_metas)
        sizes, device = [level.shape[-2:] for level in pred_maps], pred_maps[0].device
        levels = self.prior_generator.grid_priors(sizes, device=device)
        flags = [self.responsible_flags(sizes, image.bboxes, device) for image in batch_gt_instances]
        level_targets, level_negatives = self.get_targets([levels] * num_images, flags, batch_gt_instances)
        targets, negatives = flatten_targets(level_targets), flatten_targets(level_negatives)
        predictions = flatten_maps(list(pred_maps), self.num_attrib)
        logits = product_logit(predictions[:, 5:], predictions[:, 4:5])

        is_positive = targets[:, 4] > 0
        labels = torch.where(is_positive, targets[:, 5:].argmax(dim=1), self.num_classes)
        positive = is_positive.nonzero().squeeze(1)
        priors = torch.cat([level.repeat(num_images, 1) for level in levels])[positive]
        strides = torch.cat(
            [
                level.new_full((num_images * len(level), 1), stride)
                for level, stride in zip(levels, self.featmap_strides, strict=True)
            ]
        )[positive]
        own, encoded = predictions[positive, :4], targets[positive, :4]
        boxes, target_boxes = (
            self.bbox_coder.decode(priors, coordinates, strides)
            for coordinates in (torch.cat([own[:, :2].sigmoid(), own[:, 2:]], dim=1), encoded)
        )
        losses = self.loss_cls.losses_with_boxes(
            logits,
            labels,
            (is_positive | (negatives > 0)).float(),
            positive,
            EncodedBoxes(
                self.loss_bbox,
                boxes,
                target_boxes,
                logits[positive],
                self.coordinate_losses(own, encoded, logits[positive]),
            ),
            self.image_rows([len(level) for level in levels], num_images, device),
        )
        return nan_if_not_finite(losses, own)

    def predict_by_feat(self, pred_maps: Sequence[Tensor], *args: Any, **kwargs: Any) -> InstanceList:
        """Detections; arguments as for :meth:`mmdet.models.YOLOV3Head.predict_by_feat`."""
        return super().predict_by_feat([self._with_scores(level) for level in pred_maps], *args, **kwargs)

    def _with_scores(self, level: Tensor) -> Tensor:
        """A map of one level with the logits of the scores as classes, and a confidence of 1."""
        values = at_least_float32(level.unflatten(1, (self.num_base_priors, self.num_attrib)))
        boxes, confidence, classes = values.split([4, 1, self.num_classes], dim=2)
        certain = torch.full_like(confidence, torch.inf)
        return torch.cat([boxes, certain, product_logit(classes, confidence)], dim=2).flatten(1, 2)

    def coordinate_losses(self, predictions: Tensor, targets: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """``loss_xy`` and ``loss_wh`` of ``(num_pos, 4)`` encoded boxes; ``logits (num_pos, num_classes)``."""
        weights, total = score_weights(logits, self.loss_cls.shared, self.loss_cls.equal_box_weights)
        if len(predictions) == 0:
            return {'loss_xy': predictions.sum() * 0, 'loss_wh': predictions.sum() * 0}
        parts = {'loss_xy': (self.loss_xy, slice(0, 2)), 'loss_wh': (self.loss_wh, slice(2, 4))}
        losses = {
            name: loss(predictions[:, part], targets[:, part], reduction_override='none').sum(dim=1)
            for name, (loss, part) in parts.items()
        }
        return {name: weighted_mean(values, weights, total) for name, values in losses.items()}
