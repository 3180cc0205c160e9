"""Guided anchoring (GA-RPN, GA-RetinaNet) trained with a ranking loss on the guided anchors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.dense_heads import GARetinaHead, GARPNHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..losses import ranking_and_box_losses
from ..losses.box_weighting import at_least_float32, mean_by_score
from ..recipes import Note, Part, Role, Rule, ranking_head
from ..rules import ANCHOR_HEAD
from .float32_deform_conv import use_float32_deform_convs
from .rank_based_rpn_head import anchors_across_the_border
from .ranking_mixin import RankingDenseHeadMixin, flatten_maps, flatten_targets

if TYPE_CHECKING:
    from mmdet.models.dense_heads import GuidedAnchorHead as _Host
else:
    _Host = object

# The layers of focal loss on locations start at a probability of 0.01, the classifier at 0.5.
_INIT = dict(
    type='Normal',
    layer='Conv2d',
    std=0.01,
    override=dict(type='Normal', name='conv_loc', std=0.01, bias_prob=0.01),
)


def _locations_and_shapes() -> Rule:
    def apply(part: Part) -> Iterator[Note]:
        yield Note(
            f'{part.path}.loss_loc keeps its weight: it tells where anchors are computed, and is no score of a box; '
            'loss_shape becomes a mean over its positives and is balanced together with loss_bbox'
        )

    return Rule((), apply)


GUIDED = (*ANCHOR_HEAD, _locations_and_shapes())


class RankingGuidedAnchorMixin(RankingDenseHeadMixin, _Host):
    """A mixin for ``GuidedAnchorHead``: the guided anchors of all levels and images are ranked, without sampling.

    The label of a positive is the IoU of the box that is decoded from its guided anchor. The loss of the anchor shapes
    is a mean over the anchors that ``ga_assigner`` and ``ga_sampler`` choose, and is balanced together with the box
    loss, so the ratio of their weights does not change. The loss of the locations is a focal loss on all of them, and
    keeps its weight. It decides where anchors are computed in inference and does not change their scores.

    Raises:
        ValueError: As :class:`RankingDenseHeadMixin`.
    """

    def __init__(self, *args: Any, init_cfg: dict | list | None = None, **kwargs: Any) -> None:
        super().__init__(*args, init_cfg=init_cfg or _INIT, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        use_float32_deform_convs(self)

    def loss_by_feat(  # type: ignore[override]
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        shape_preds: list[Tensor],
        loc_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.GuidedAnchorHead.loss_by_feat`.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses), ``loss_bbox``, ``loss_shape`` and ``loss_loc``. If there is no
            positive, all but ``loss_loc`` are 0 and connected to the predictions; DR Loss is not 0 either.
        """
        sizes = [level.shape[-2:] for level in cls_scores]
        device = cls_scores[0].device
        approxs, inside = self.get_sampled_approxs(sizes, batch_img_metas, device=device)
        # All locations have an anchor in training, but MMDetection leaves out those whose score is NaN, and fails.
        scored = [level.nan_to_num() for level in loc_preds]
        squares, anchors, _ = self.get_anchors(
            sizes, [at_least_float32(level) for level in shape_preds], scored, batch_img_metas, device=device
        )
        level_labels, level_weights, level_targets, *_ = self.get_targets(
            anchors, inside, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        labels, weights = flatten_targets(level_labels), flatten_targets(level_weights)
        positive = ((labels < self.num_classes) & (weights > 0)).nonzero().squeeze(1)
        shape_targets = self.ga_shape_targets(
            approxs, inside, squares, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        losses = ranking_and_box_losses(
            self.loss_cls,
            self.loss_bbox,
            flatten_maps(cls_scores, self.cls_out_channels),
            labels,
            weights,
            positive,
            self.decode(self.flat_priors(anchors)[positive], flatten_maps(bbox_preds, 4)[positive]),
            flatten_targets(level_targets)[positive],
            self.image_rows([level.size(1) for level in level_labels], len(batch_img_metas), device),
            {'loss_shape': self._shape_loss(flatten_maps(shape_preds, 2), *map(flatten_targets, shape_targets[:3]))},
        )
        return {**losses, 'loss_loc': self._location_loss(loc_preds, batch_gt_instances)}

    def _shape_loss(self, predictions: Tensor, squares: Tensor, objects: Tensor, weights: Tensor) -> Tensor:
        """The mean loss of the shapes of anchors over the ``num_pos`` of them with a weight.

        Args:
            predictions: ``(n, 2)`` deltas of width and height.
            squares: ``(n, 4)`` the squares that they change, x1 y1 x2 y2 in pixels.
            objects: ``(n, 4)`` ground-truth boxes.
            weights: ``(n, 4)``, 0 for anchors that do not count.
        """
        positive = (weights[:, 0] > 0).nonzero().squeeze(1)
        deltas = torch.nn.functional.pad(predictions[positive], (2, 0))  # the centres stay
        shapes = self.anchor_coder.decode(squares[positive], deltas, wh_ratio_clip=1e-6)
        losses = self.loss_shape(shapes, objects[positive], reduction_override='none')
        losses = losses.flatten(1).sum(dim=1) if losses.dim() > 1 else losses
        return mean_by_score(losses, torch.ones_like(losses), self.loss_cls.shared)

    def _location_loss(self, loc_preds: list[Tensor], batch_gt_instances: InstanceList) -> Tensor:
        """The stock loss of the locations, summed over levels."""
        sizes = [level.shape[-2:] for level in loc_preds]
        targets, weights, avg_factor = self.ga_loc_targets(batch_gt_instances, sizes)
        levels = [
            self.loss_loc_single(at_least_float32(level), target, weight, avg_factor)
            for level, target, weight in zip(loc_preds, targets, weights, strict=True)
        ]
        return torch.stack(levels).sum()


@ranking_head(GARetinaHead, role=Role.DENSE, rules=GUIDED)
@MODELS.register_module()
class RankBasedGARetinaHead(RankingGuidedAnchorMixin, GARetinaHead):
    """``GARetinaHead`` trained with a ranking loss; arguments as for MMDetection's head."""

    classifiers = ('retina_cls',)


@ranking_head(GARPNHead, role=Role.PROPOSALS, rules=(*GUIDED, anchors_across_the_border()))
@MODELS.register_module()
class RankBasedGARPNHead(RankingGuidedAnchorMixin, GARPNHead):
    """``GARPNHead`` trained with a ranking loss.

    Args:
        head_weight: Factor on the ranking, box and shape losses, applied after self-balancing, as for
            :class:`RankBasedRPNHead`. The loss of the locations keeps its own weight.
        kwargs: As for :class:`mmdet.models.GARPNHead`.
    """

    classifiers = ('conv_cls',)

    def __init__(self, *args: Any, head_weight: float = 0.2, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head_weight = head_weight

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """``loss_rpn_rank``, ``loss_rpn_sort`` (RS losses), ``loss_rpn_bbox`` and the losses of the anchors.

        The losses of the anchors are ``loss_anchor_shape`` and ``loss_anchor_loc``. Arguments are those of
        :meth:`mmdet.models.GARPNHead.loss_by_feat`.
        """
        # The method of the stock head only renames losses.
        losses = RankingGuidedAnchorMixin.loss_by_feat(self, *args, **kwargs)
        location, shape = losses.pop('loss_loc'), losses.pop('loss_shape')
        renamed = {name.replace('loss_', 'loss_rpn_'): self.head_weight * value for name, value in losses.items()}
        return {**renamed, 'loss_anchor_shape': self.head_weight * shape, 'loss_anchor_loc': location}

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        shape_preds: list[Tensor],
        loc_preds: list[Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> InstanceList:
        """Proposals; arguments as for :meth:`mmdet.models.GARPNHead.predict_by_feat`. Training uses them too."""
        maps = [
            [at_least_float32(level) for level in part] for part in (cls_scores, bbox_preds, shape_preds, loc_preds)
        ]
        return super().predict_by_feat(*maps, *args, **kwargs)
