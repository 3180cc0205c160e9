"""Cascade RPN trained with a ranking loss in the stage that has a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmdet.models.dense_heads import CascadeRPNHead, StageCascadeRPNHead
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..losses import self_balance
from ..losses.box_weighting import at_least_float32
from ..recipes import Inner, Note, Part, Role, Rule, ranking_head
from ..rules import decoded_box_loss, decoded_boxes, each, nothing_sampled, ranking_loss
from .float32_deform_conv import use_float32_deform_convs
from .ranking_mixin import RankingDenseHeadMixin, flatten_maps, flatten_targets

_STAGE = (ranking_loss(), decoded_box_loss(2.0), decoded_boxes(), nothing_sampled())


@ranking_head(StageCascadeRPNHead, role=Role.PROPOSALS, rules=_STAGE)
@MODELS.register_module()
class RankBasedStageCascadeRPNHead(RankingDenseHeadMixin, StageCascadeRPNHead):
    """A ``StageCascadeRPNHead`` with a classifier, which ranks the refined anchors of all levels and images.

    Args:
        head_weight: Factor on all losses of this stage, applied after self-balancing, as for
            :class:`RankBasedRPNHead`.
        with_cls: Must be True.
        args, kwargs: As for :class:`mmdet.models.StageCascadeRPNHead`.

    Raises:
        ValueError: As :class:`RankingDenseHeadMixin`, or ``with_cls`` is False.
    """

    classifiers = ('rpn_cls',)

    def __init__(self, *args: Any, head_weight: float = 0.2, with_cls: bool = True, **kwargs: Any) -> None:
        if not with_cls:
            raise ValueError(
                f'{type(self).__name__}: with_cls must be True, got False; a stage without a classifier is a '
                'StageCascadeRPNHead'
            )
        super().__init__(*args, with_cls=True, **kwargs)
        self.head_weight = head_weight

    def _init_layers(self) -> None:
        super()._init_layers()
        use_float32_deform_convs(self)

    def loss_by_feat(  # type: ignore[override]
        self,
        anchor_list: list[list[Tensor]],
        valid_flag_list: list[list[Tensor]],
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """``loss_rpn_rank``, ``loss_rpn_sort`` (RS losses) and ``loss_rpn_bbox``; arguments as for the stock stage."""
        priors = self.flat_priors(anchor_list)
        sizes = [level.shape[-2:] for level in cls_scores]
        labels, label_weights, bbox_targets, *_ = self.get_targets(
            anchor_list, valid_flag_list, sizes, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        losses = self.ranking_losses(
            flatten_maps(cls_scores, self.cls_out_channels),
            flatten_maps(bbox_preds, 4),
            priors,
            flatten_targets(labels),
            flatten_targets(label_weights),
            flatten_targets(bbox_targets),
            self.image_rows([level.size(1) for level in labels], len(batch_img_metas), priors.device),
        )
        return {name.replace('loss_', 'loss_rpn_'): self.head_weight * value for name, value in losses.items()}

    def predict_by_feat(
        self,
        anchor_list: list[list[Tensor]],
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> InstanceList:
        """Proposals; arguments as for the stock stage. Training uses them too."""
        cls_scores, bbox_preds = ([at_least_float32(level) for level in maps] for maps in (cls_scores, bbox_preds))
        return super().predict_by_feat(anchor_list, cls_scores, bbox_preds, *args, **kwargs)


def _stages() -> Rule:
    def apply(part: Part) -> Iterator[Inner | Note]:
        stages = part.config.get('stages', [])
        for where in each(stages):
            if stages[where[0]].get('with_cls', True):
                yield Inner(('stages', *where), Role.PROPOSALS)
            else:
                yield Note(
                    f'{part.path}.stages.{where[0]} has no classifier; its box loss is scaled as that of the stage '
                    'that ranks'
                )

    return Rule(('stages',), apply)


@ranking_head(CascadeRPNHead, role=Role.PROPOSALS, rules=(_stages(),))
@MODELS.register_module()
class RankBasedCascadeRPNHead(CascadeRPNHead):
    """``CascadeRPNHead`` whose last stage, which has the classifier, is a :class:`RankBasedStageCascadeRPNHead`.

    The stages before it only refine anchors. If the ranking loss balances itself, their box losses are scaled to it as
    the box loss of the last stage is; otherwise they are multiplied by its ``head_weight``.

    Args:
        args, kwargs: As for :class:`mmdet.models.CascadeRPNHead`.

    Raises:
        ValueError: The last stage is another head.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.stages[-1], RankBasedStageCascadeRPNHead):
            raise ValueError(
                f'{type(self).__name__}: the last of its stages must be a RankBasedStageCascadeRPNHead, got '
                f'{type(self.stages[-1]).__name__}'
            )

    def loss(self, x: tuple[Tensor, ...], batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of all stages; arguments as for :meth:`mmdet.models.CascadeRPNHead.loss`."""
        return self._balanced(super().loss(x, batch_data_samples))

    def loss_and_predict(
        self, x: tuple[Tensor, ...], batch_data_samples: SampleList, proposal_cfg: Any = None
    ) -> tuple[dict[str, Tensor], InstanceList]:
        """Losses and proposals; arguments as for :meth:`mmdet.models.CascadeRPNHead.loss_and_predict`."""
        losses, proposals = super().loss_and_predict(x, batch_data_samples, proposal_cfg)
        return self._balanced(losses), proposals

    def _balanced(self, losses: dict[str, Any]) -> dict[str, Tensor]:
        last = f's{len(self.stages) - 1}.'
        ranking_stage = self.stages[-1]
        loss_cls = ranking_stage.loss_cls
        names = [last + name.replace('loss_', 'loss_rpn_') for name in loss_cls.LOG_NAMES]
        ranking = [losses[name] for name in names]
        for name in [name for name in losses if not name.startswith(last)]:
            stage = self.stages[int(name[1:].partition('.')[0])]
            if isinstance(stage, RankBasedStageCascadeRPNHead):  # it has a classifier, so its losses are balanced
                continue
            value = torch.stack(list(losses[name])).sum()  # the stock stage returns a loss for each level
            if loss_cls.self_balancing:
                losses[name] = self_balance(value, ranking, loss_cls.shared)
            else:
                losses[name] = ranking_stage.head_weight * value
        return losses
