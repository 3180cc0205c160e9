"""MaskFormer, Mask2Former and Mask2Former for videos trained with a ranking loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmcv.ops import point_sample
from mmdet.models.dense_heads import Mask2FormerHead, MaskFormerHead
from mmdet.models.tracking_heads import Mask2FormerTrackHead
from mmdet.models.utils import get_uncertain_point_coords_with_randomness
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..losses.box_weighting import at_least_float32
from ..recipes import Role, ranking_head
from ..rules import QUERY_HEAD
from .positive_masks import mask_ious
from .query_ranking import SetRankingMixin, join_sets
from .query_sets import MaskSet, MaskTargets, layer_prefix
from .rank_based_maskformer_fusion_head import best_entries

if TYPE_CHECKING:
    from mmdet.models.dense_heads import MaskFormerHead as _Host
else:
    _Host = object

_REASON = 'ranks all queries of a batch, labelled by the IoU of their masks'


class _SigmoidClassifier(_Host):
    """Builds the head with a classifier without a column for "no object", for which it has no option."""

    cls_embed: nn.Linear

    def __init__(self, *args: Any, loss_cls: dict, **kwargs: Any) -> None:
        # The head reads class_weight of the loss, which a ranking loss does not have.
        softmax = ConfigDict(type='CrossEntropyLoss', class_weight=None)
        super().__init__(*args, loss_cls=softmax, **kwargs)
        self.cls_embed = nn.Linear(self.cls_embed.in_features, self.num_classes)
        self.loss_cls = MODELS.build(loss_cls)


class RankingMaskFormerHeadMixin(SetRankingMixin, _SigmoidClassifier):
    """A mixin for ``MaskFormerHead`` and its subclasses: each decoder layer is a set of queries with masks.

    There is one sigmoid for each class instead of a softmax with "no object". The target of a positive is the IoU of
    its predicted mask, where the logit is above 0, with its object: at the resolution of the prediction, where the
    object has the value of its nearest pixel. Mask and Dice loss are those of the stock head. If they are balanced,
    their sum is scaled to the ranking loss, and the ratio of their weights stays.

    Args:
        loss_cls, score_prior, args, kwargs: As for :class:`SetRankingMixin`.

    Raises:
        ValueError: As :class:`SetRankingMixin`.
    """

    classifiers = ('cls_embed',)
    position_losses = ('loss_mask', 'loss_dice')
    balanced_together = True

    def loss_by_feat(
        self,
        all_cls_scores: Sequence[Tensor],
        all_mask_preds: Sequence[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
    ) -> dict[str, Tensor]:
        """Losses by log name; arguments as for :meth:`mmdet.models.MaskFormerHead.loss_by_feat`."""
        num_layers = len(all_cls_scores)
        sets = [
            MaskSet(
                layer_prefix(layer, num_layers),
                logits,
                masks,
                self.match(logits, masks, batch_gt_instances, batch_img_metas),
            )
            for layer, (logits, masks) in enumerate(zip(all_cls_scores, all_mask_preds, strict=True))
        ]
        return self.query_losses(sets, torch.cat([image.masks for image in batch_gt_instances]))

    def match(
        self, logits: Tensor, masks: Tensor, batch_gt_instances: InstanceList, batch_img_metas: list[dict]
    ) -> MaskTargets:
        """One-to-one targets by the head's assigner, which reads lowered logits.

        An image with predictions that are not finite is matched as if it had no objects, and the losses become NaN.

        Args:
            logits: ``(batch, n, num_classes)``.
            masks: ``(batch, n, h, w)`` mask logits, or ``(batch, n, num_frames, h, w)``.
            batch_gt_instances: Objects of each image, with ``labels`` and ``masks``.
            batch_img_metas: As for the head.
        """
        logits, masks = at_least_float32(logits.detach()) + self.score_shift, masks.detach()
        finite = (_sums(masks) + logits.flatten(1).sum(1)).isfinite()
        labels, weights, objects, positive = [], [], [], []
        num_objects = 0
        for image, own in enumerate(batch_gt_instances):
            with torch.autocast(logits.device.type, enabled=False):  # the costs of masks overflow in float16
                own_labels, own_weights, _, _, rows, _, sampled = self._get_targets_single(
                    logits[image],
                    at_least_float32(masks[image]),
                    own if finite[image] else own[:0],
                    batch_img_metas[image],
                )
            labels.append(own_labels)
            weights.append(own_weights)
            objects.append(sampled.pos_assigned_gt_inds + num_objects)
            positive.append(rows + image * logits.size(1))
            num_objects += len(own)
        return MaskTargets(torch.stack(labels), torch.stack(weights), torch.cat(objects), torch.cat(positive))

    def query_losses(self, sets: Sequence[MaskSet], object_masks: Tensor) -> dict[str, Tensor]:
        """Losses of all sets by log name, see :meth:`losses_of_sets`.

        Args:
            sets: Predictions of the same images.
            object_masks: ``(num_objects, H, W)`` binary masks of the objects of all images, or
                ``(num_objects, num_frames, H, W)``.
        """
        small = _at_size(object_masks, sets[0].masks.shape[-2:])
        ious, errors = [], []
        # One set after the other, because the masks of objects have the size of the image.
        for one in sets:
            masks = at_least_float32(one.masks.flatten(0, 1).index_select(0, one.targets.positive))
            ious.append(mask_ious(masks.detach().sigmoid(), small.index_select(0, one.targets.objects)))
            own_targets = object_masks.index_select(0, one.targets.objects)
            errors.append(self.mask_errors(masks, own_targets) if len(masks) else masks.new_zeros(2, 0))
        rows = join_sets(sets, self.num_classes)
        predictions = torch.stack([_sums(one.masks).sum() for one in sets])
        return self.losses_of_sets(sets, rows, torch.cat(ious), torch.cat(errors, dim=1), predictions)

    def mask_errors(self, masks: Tensor, targets: Tensor) -> Tensor:
        """``(2, num_pos)`` values of mask and Dice loss, as MaskFormer computes them: at the size of the image.

        Args:
            masks: ``(num_pos, h, w)`` mask logits, ``num_pos`` above 0.
            targets: ``(num_pos, H, W)`` binary masks.
        """
        masks = interpolate(masks.unsqueeze(1), targets.shape[-2:], mode='bilinear', align_corners=False).squeeze(1)
        # MMDetection's focal loss takes the index of a class; there is one, and 1 is its background.
        pixels = self.loss_mask(masks.reshape(-1, 1), 1 - targets.reshape(-1), reduction_override='none')
        dice = self.loss_dice(masks, targets, reduction_override='none')
        return torch.stack([pixels.view(len(masks), -1).mean(1), dice])


class RankingMask2FormerHeadMixin(RankingMaskFormerHeadMixin):
    """A mixin for ``Mask2FormerHead``: :class:`RankingMaskFormerHeadMixin` with losses at sampled points.

    The target of a positive is still the IoU of the whole mask: most points of the losses are sampled where the mask is
    uncertain, and the IoU is lower there.
    """

    def mask_errors(self, masks: Tensor, targets: Tensor) -> Tensor:
        """``(2, num_pos)`` values of mask and Dice loss, as Mask2Former computes them: at sampled points.

        Args:
            masks: ``(num_pos, h, w)`` mask logits, or ``(num_pos, num_frames, h, w)``; ``num_pos`` above 0.
            targets: ``(num_pos, H, W)`` or ``(num_pos, num_frames, H, W)`` binary masks. Errors are sums over frames.
        """
        frames, true_frames = (some.flatten(0, -3).unsqueeze(1) for some in (masks, targets))
        with torch.no_grad():
            points = get_uncertain_point_coords_with_randomness(
                frames, None, self.num_points, self.oversample_ratio, self.importance_sample_ratio
            )
            truth = point_sample(true_frames.to(frames.dtype), points).squeeze(1)
        logits = point_sample(frames, points).squeeze(1)
        pixels = self.loss_mask(logits.reshape(-1), truth.reshape(-1), reduction_override='none')
        dice = self.loss_dice(logits, truth, reduction_override='none')
        return torch.stack([pixels.view(len(frames), -1).mean(1), dice]).view(2, len(masks), -1).sum(2)


@ranking_head(MaskFormerHead, role=Role.INSTANCES, rules=QUERY_HEAD, reason=_REASON)
@MODELS.register_module()
class RankBasedMaskFormerHead(RankingMaskFormerHeadMixin, MaskFormerHead):
    """``MaskFormerHead`` trained with a ranking loss, see :class:`RankingMaskFormerHeadMixin`.

    Its scores are sigmoids: use it with :class:`RankBasedMaskFormerFusionHead`.
    """

    baseline = 'MaskFormerHead'


@ranking_head(Mask2FormerHead, role=Role.INSTANCES, rules=QUERY_HEAD, reason=_REASON)
@MODELS.register_module()
class RankBasedMask2FormerHead(RankingMask2FormerHeadMixin, Mask2FormerHead):
    """``Mask2FormerHead`` trained with a ranking loss, see :class:`RankingMask2FormerHeadMixin`.

    Its scores are sigmoids: use it with :class:`RankBasedMaskFormerFusionHead`.
    """

    baseline = 'Mask2FormerHead'


@ranking_head(Mask2FormerTrackHead, role=Role.INSTANCES, rules=QUERY_HEAD, reason=_REASON)
@MODELS.register_module()
class RankBasedMask2FormerTrackHead(RankingMask2FormerHeadMixin, Mask2FormerTrackHead):
    """``Mask2FormerTrackHead`` trained with a ranking loss: a query predicts the masks of an object in all frames.

    The target of a positive is the IoU over all frames, as in the AP of video instance segmentation; otherwise see
    :class:`RankingMask2FormerHeadMixin`.
    """

    baseline = 'Mask2FormerTrackHead'

    def mask_errors(self, masks: Tensor, targets: Tensor) -> Tensor:
        """As for one image; the stock head multiplies its mask loss, but not Dice loss, by the number of frames."""
        return super().mask_errors(masks, targets) * masks.new_tensor([[self.num_frames], [1.0]])

    def predict_by_feat(
        self,
        mask_cls_results: Tensor,
        mask_pred_results: Tensor,
        batch_img_metas: list[dict],
        rescale: bool = True,
    ) -> InstanceList:
        """The 10 best (query, class) pairs of a video, as in the stock head; scores are sigmoids.

        The head must have at least 10 queries.

        Args:
            mask_cls_results: ``(num_queries, num_classes)`` logits.
            mask_pred_results: ``(num_queries, num_frames, H, W)`` mask logits.
            batch_img_metas, rescale: As for the stock head.
        """
        rows, queries = best_entries(mask_cls_results, 10)
        return super().predict_by_feat(rows, mask_pred_results[queries], batch_img_metas, rescale)


def _sums(masks: Tensor) -> Tensor:
    """``(n,)`` sums of masks ``(n, ...)``, at least float32 without a copy of the masks."""
    return masks.flatten(1).sum(1, dtype=torch.promote_types(masks.dtype, torch.float32))


def _at_size(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Binary masks ``(n, ..., H, W)`` at the size ``(h, w)``: the values of the nearest pixels."""
    small = interpolate(masks.flatten(0, -3).unsqueeze(1).float(), size, mode='nearest-exact')
    return small.view(*masks.shape[:-2], *size)
