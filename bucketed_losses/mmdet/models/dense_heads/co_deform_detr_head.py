"""The query head of Co-Deformable-DETR, and its version for ranking losses (BRS-DETR)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import DeformableDETRHead
from mmdet.models.layers import inverse_sigmoid
from mmdet.models.losses import QualityFocalLoss
from mmdet.models.task_modules.assigners import FocalLossCost
from mmdet.models.utils import rename_loss_dict, reweight_loss_dict
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from mmdet.utils import InstanceList, OptInstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ....core.distributed import num_processes
from ..classifiers import ClassifierMixin
from ..losses import ImageRows, check_ranks, self_balance
from ..losses.box_weighting import at_least_float32, mean_over_processes
from ..recipes import Part, Role, Rule, Setting, ranking_head
from ..rules import at, each, ranking_loss


class QueryTargets(NamedTuple):
    """The training targets of queries.

    Attributes:
        labels: ``(batch, n)`` class indices, ``num_classes`` for background.
        weights: ``(batch, n)``, 0 for queries that do not contribute to the losses.
        boxes: ``(batch, n, 4)`` ground-truth boxes of the positives, normalised cx cy w h.
    """

    labels: Tensor
    weights: Tensor
    boxes: Tensor


@MODELS.register_module()
class CoDeformDETRHead(DeformableDETRHead):
    """``DeformableDETRHead`` that looks forward twice and can also be trained on queries with given targets.

    It can replace ``DeformableDETRHead`` in MMDetection's ``DeformableDETR``. The losses of the last decoder layer are
    logged without a prefix, those of the other layers as ``d0.loss_cls`` and so on, and those of the encoder's
    proposals as ``enc.…``.

    Args:
        look_forward_twice: Let the gradient of each layer's boxes also reach the previous layer, as DINO does. This
            does not change the predictions.
        lambda_1: Weight of the losses of the auxiliary queries, Eq. 15.
        args, kwargs: As for :class:`mmdet.models.DeformableDETRHead`.
    """

    def __init__(self, *args: Any, look_forward_twice: bool = True, lambda_1: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The layers share their branches exactly if boxes are not refined from layer to layer. Then there is no box of
        # a previous layer that a gradient could reach.
        self.look_forward_twice = look_forward_twice and not self.share_pred_layer
        self.lambda_1 = lambda_1

    def forward(self, hidden_states: Tensor, references: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Predictions of every decoder layer.

        Args:
            hidden_states: ``(num_layers, batch, n, embed_dims)``.
            references: ``num_layers + 1`` tensors ``(batch, n, 4)``, normalised: the boxes that each layer starts from.
                The first may be points, ``(batch, n, 2)``; the last is not read.

        Returns:
            Logits ``(num_layers, batch, n, num_classes)`` and boxes ``(num_layers, batch, n, 4)``, cx cy w h.
        """
        logits, boxes = [], []
        refined: Tensor | None = None  # the refined boxes of the previous layer, with their gradient
        for layer, hidden in enumerate(hidden_states):
            offsets = self.reg_branches[layer](hidden)
            logits.append(self.cls_branches[layer](hidden))
            boxes.append(_move(references[layer] if refined is None else refined, offsets))
            if self.look_forward_twice:
                refined = _move(references[layer], offsets)
        return torch.stack(logits), torch.stack(boxes)

    def loss(
        self,
        hidden_states: Tensor,
        references: list[Tensor],
        enc_outputs_class: Tensor | None,
        enc_outputs_coord: Tensor | None,
        batch_data_samples: SampleList,
        enc_outputs_valid: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the matched queries; arguments as for ``DeformableDETRHead``, and one additional argument.

        Args:
            enc_outputs_valid: ``(batch, num_locations)`` bool, False for locations without a proposal: in the padding
                and at the border of the image. These do not contribute to the losses. None: all locations contribute,
                as in ``DeformableDETR``.
        """
        logits, boxes = self(hidden_states, references)
        return self.loss_by_feat(
            logits,
            boxes,
            enc_outputs_class,
            enc_outputs_coord,
            [sample.gt_instances for sample in batch_data_samples],
            [sample.metainfo for sample in batch_data_samples],
            enc_valid=enc_outputs_valid,
        )

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        enc_cls_scores: Tensor | None,
        enc_bbox_preds: Tensor | None,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
        enc_valid: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses by log name; arguments as for ``DeformableDETRHead``. ``batch_gt_instances_ignore`` is not used."""
        losses: dict[str, Tensor] = {}
        if enc_cls_scores is not None and enc_bbox_preds is not None:
            # The first class stands for "object" in the encoder, as in Deformable DETR.
            objects = copy.deepcopy(batch_gt_instances)
            for image in objects:
                image.labels = torch.zeros_like(image.labels)
            targets = self.match(enc_cls_scores, enc_bbox_preds, objects, batch_img_metas, enc_valid)
            losses |= rename_loss_dict(
                'enc.', self.query_losses(enc_cls_scores, enc_bbox_preds, targets, batch_img_metas)
            )
        for layer, (logits, boxes) in enumerate(zip(all_layers_cls_scores, all_layers_bbox_preds, strict=True)):
            targets = self.match(logits, boxes, batch_gt_instances, batch_img_metas)
            prefix = _layer_prefix(layer, len(all_layers_cls_scores))
            losses |= rename_loss_dict(prefix, self.query_losses(logits, boxes, targets, batch_img_metas))
        return losses

    def auxiliary_loss(
        self, hidden_states: Tensor, references: list[Tensor], targets: QueryTargets, batch_img_metas: list[dict]
    ) -> dict[str, Tensor]:
        """Losses of one group of auxiliary queries, times ``lambda_1``; every decoder layer has the same targets."""
        losses: dict[str, Tensor] = {}
        layers = list(zip(*self(hidden_states, references), strict=True))
        for layer, (logits, boxes) in enumerate(layers):
            parts = reweight_loss_dict(self.query_losses(logits, boxes, targets, batch_img_metas), self.lambda_1)
            losses |= rename_loss_dict(_layer_prefix(layer, len(layers)), parts)
        return losses

    @property
    def fewest_positives(self) -> float:
        """The lower limit of the mean number of positives per process, which losses are divided by, as in DETR."""
        return 1.0

    def match(
        self,
        logits: Tensor,
        boxes: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        valid: Tensor | None = None,
    ) -> QueryTargets:
        """One-to-one targets by the head's assigner.

        The assigner cannot compare predictions that are not finite. An image with such predictions is matched as if it
        had no objects, and the losses become NaN.

        Args:
            logits, boxes, batch_img_metas: As for :meth:`query_losses`.
            batch_gt_instances: Objects of each image.
            valid: ``(batch, n)`` bool, False for predictions that must not be matched with an object; they get weight
                0. None: all predictions are valid.
        """
        logits, boxes = logits.detach(), boxes.detach()
        if valid is None:
            valid = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        image_logits, image_boxes, objects = [], [], []
        for image, chosen in enumerate(valid):
            image_logits.append(logits[image, chosen])
            image_boxes.append(boxes[image, chosen])
            finite = image_logits[-1].isfinite().all() & image_boxes[-1].isfinite().all()
            objects.append(batch_gt_instances[image] if finite else batch_gt_instances[image][:0])
        labels, weights, target_boxes, *_ = self.get_targets(image_logits, image_boxes, objects, batch_img_metas)
        # The order is that of the images and, within an image, that of its valid predictions.
        labels, weights, target_boxes = torch.cat(labels), torch.cat(weights), torch.cat(target_boxes)
        targets = QueryTargets(
            labels.new_full(valid.shape, self.num_classes),
            weights.new_zeros(valid.shape),
            target_boxes.new_zeros(*valid.shape, 4),
        )
        targets.labels[valid], targets.weights[valid], targets.boxes[valid] = labels, weights, target_boxes
        return targets

    def query_losses(
        self, logits: Tensor, boxes: Tensor, targets: QueryTargets, batch_img_metas: list[dict]
    ) -> dict[str, Tensor]:
        """Losses of one set of predictions, Eq. 16: those of the classification, ``loss_bbox`` and ``loss_iou``.

        Args:
            logits: ``(batch, n, num_classes)``.
            boxes: ``(batch, n, 4)``, normalised cx cy w h.
            targets: Targets of the same predictions.
            batch_img_metas: Dicts with ``img_shape``, ``(height, width)``.
        """
        logits, boxes = at_least_float32(logits).flatten(0, 1), at_least_float32(boxes)
        sizes = boxes.new_tensor([meta['img_shape'][1::-1] * 2 for meta in batch_img_metas])[:, None]
        target_boxes = targets.boxes.to(boxes)
        pixels, target_pixels = ((bbox_cxcywh_to_xyxy(some) * sizes).flatten(0, 1) for some in (boxes, target_boxes))
        labels, weights = targets.labels.flatten(), targets.weights.flatten()
        positive = (labels < self.num_classes) & (weights > 0)
        ious = bbox_overlaps(pixels.detach(), target_pixels, is_aligned=True)
        num_local = positive.sum().to(boxes.dtype)
        num_pos = mean_over_processes(num_local).clamp(min=self.fewest_positives)
        avg_factor = num_pos if self.sync_cls_avg_factor else num_local.clamp(min=1)
        box_weights = positive[:, None].expand(-1, 4).to(boxes.dtype)
        losses = self.classification_losses(logits, labels, ious, weights, avg_factor, len(batch_img_metas))
        losses['loss_bbox'] = self.loss_bbox(
            boxes.flatten(0, 1), target_boxes.flatten(0, 1), box_weights, avg_factor=num_pos
        )
        losses['loss_iou'] = self.loss_iou(pixels, target_pixels, box_weights, avg_factor=num_pos)
        return losses

    def classification_losses(
        self, logits: Tensor, labels: Tensor, ious: Tensor, weights: Tensor, avg_factor: Tensor, num_images: int
    ) -> dict[str, Tensor]:
        """``loss_cls`` of logits ``(n, num_classes)`` in the order of the images.

        Only the positives' entries of ``ious (n,)`` are used.
        """
        target = (labels, ious) if isinstance(self.loss_cls, QualityFocalLoss) else labels
        return {'loss_cls': self.loss_cls(logits, target, weights, avg_factor=avg_factor)}

    def _predict_by_feat_single(
        self, cls_score: Tensor, bbox_pred: Tensor, img_meta: dict, rescale: bool = True
    ) -> InstanceData:
        # MMDetection takes the best max_per_img scores and fails if there are fewer. Small images have few queries.
        available = cls_score.numel() if self.loss_cls.use_sigmoid else len(cls_score)
        if self.test_cfg.get('max_per_img', 0) <= available:
            return super()._predict_by_feat_single(cls_score, bbox_pred, img_meta, rescale)
        limited = copy.copy(self)  # it shares everything with this head except for the limit
        limited.test_cfg = {**self.test_cfg, 'max_per_img': available}
        return limited._predict_by_feat_single(cls_score, bbox_pred, img_meta, rescale)


def _published_match_cost() -> Rule:
    """Sets the weight of the classification cost in matching to the value published for BRS-DETR."""

    def apply(part: Part) -> Iterator[Setting]:
        assigner = (part.train_cfg or {}).get('assigner') or {}
        costs = assigner.get('match_costs')
        for where in each(costs):
            if part.type_of(at(costs, where), TASK_UTILS) is FocalLossCost:
                path = ('assigner', 'match_costs', *where, 'weight')
                yield Setting(path, 4.0, 'matching weighs classes as published for BRS-DETR', 'train_cfg')

    return Rule(('train_cfg.assigner.match_costs',), apply)


@ranking_head(
    CoDeformDETRHead,
    role=Role.QUERIES,
    rules=(ranking_loss(weight=2.0), _published_match_cost()),
    suggested_for=[DeformableDETRHead],
)
@MODELS.register_module()
class RankBasedCoDeformDETRHead(ClassifierMixin, CoDeformDETRHead):
    """``CoDeformDETRHead`` trained with a ranking loss, Eq. 17: the query head of BRS-DETR.

    The logits of one decoder layer (or of the encoder's proposals, or of one group of auxiliary queries) are ranked
    together over all images. The target of a positive is the IoU of its predicted box. If ``self_balancing`` of the
    loss is True, the L1 and GIoU losses are scaled to its value, so their weights cancel. ``loss_rank`` and
    ``loss_sort`` are logged in place of ``loss_cls``.

    The classifiers' biases start at 0, not at MMDetection's prior probability, as in all heads of this package;
    ``classifier_prior`` changes that.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        score_prior: The probability that an initial logit has in the classification costs of matching; in (0, 1). These
            costs are based on focal loss, and their published weight was chosen for logits that start at such a prior.
        args, kwargs: As for :class:`CoDeformDETRHead`.

    Raises:
        ValueError: ``loss_cls`` is not a ranking loss, or ``score_prior`` is not in (0, 1).
    """

    classifiers = ('cls_branches',)
    own_init = True

    def __init__(self, *args: Any, loss_cls: dict, score_prior: float = 0.01, **kwargs: Any) -> None:
        super().__init__(*args, loss_cls=loss_cls, **kwargs)
        check_ranks(self, instead="type='CoDeformDETRHead'")
        self.score_shift = self.shift_to_prior(score_prior)

    @property
    def fewest_positives(self) -> float:
        # If all processes share one batch, the limit is one positive in this batch.
        return 1 / num_processes(self.loss_cls.group)

    def match(
        self,
        logits: Tensor,
        boxes: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        valid: Tensor | None = None,
    ) -> QueryTargets:
        return super().match(logits + self.score_shift, boxes, batch_gt_instances, batch_img_metas, valid)

    def query_losses(
        self, logits: Tensor, boxes: Tensor, targets: QueryTargets, batch_img_metas: list[dict]
    ) -> dict[str, Tensor]:
        losses = super().query_losses(logits, boxes, targets, batch_img_metas)
        if self.loss_cls.self_balancing:
            ranking = [losses[name] for name in self.loss_cls.LOG_NAMES]
            shared = self.loss_cls.shared
            losses |= {name: self_balance(losses[name], ranking, shared) for name in ('loss_bbox', 'loss_iou')}
        return losses

    def classification_losses(
        self, logits: Tensor, labels: Tensor, ious: Tensor, weights: Tensor, avg_factor: Tensor, num_images: int
    ) -> dict[str, Tensor]:
        images = None
        if self.loss_cls.needs_images:
            rows = torch.arange(num_images, device=labels.device).repeat_interleave(len(labels) // num_images)
            images = ImageRows(rows, num_images)
        return self.loss_cls(logits, (labels, ious), weight=weights, images=images)


def _move(reference: Tensor, offsets: Tensor) -> Tensor:
    """Boxes ``(..., 4)`` from offsets to the inverse sigmoid of a reference box, or of a reference point."""
    start = inverse_sigmoid(reference)
    if start.shape[-1] == 2:
        start = torch.cat([start, torch.zeros_like(start)], dim=-1)
    return (offsets + start).sigmoid()


def _layer_prefix(layer: int, num_layers: int) -> str:
    """The prefix of log names. As in MMDetection, the last decoder layer has none."""
    return '' if layer == num_layers - 1 else f'd{layer}.'
