"""TOOD trained with a ranking loss in place of Quality Focal Loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmdet.models.dense_heads import TOODHead
from mmdet.registry import MODELS
from torch import Tensor, nn

from ..losses.box_weighting import without_bfloat16
from ..recipes import Role, ranking_head
from ..rules import ANCHOR_HEAD
from .joint_logits import geometric_mean_logit
from .score_assignment import RankingDecodedHeadMixin


@ranking_head(TOODHead, role=Role.DENSE, rules=ANCHOR_HEAD, unused=['initial_loss_cls', 'loss_centerness'])
@MODELS.register_module()
class RankBasedTOODHead(RankingDecodedHeadMixin, TOODHead):
    """``TOODHead`` trained with a ranking loss.

    All levels and images are ranked together. The score is the geometric mean of the probabilities of the class branch
    and the alignment branch, as in ``TOODHead``. Its logit is what is ranked, because detections are sorted by it. From
    ``initial_epoch`` on, the target of a positive is its normalised alignment metric, which is also the weight of its
    box loss, as in ``TOODHead``. In the epochs before, the target is the IoU of its box, and the box loss is weighted
    by scores. The assigner reads scores as probabilities, so it gets shifted logits.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        score_prior: As for :class:`ScorePriorMixin`.
        initial_loss_cls, loss_centerness: Not used; accepted so that a config may inherit one written for ``TOODHead``.
        kwargs: As for :class:`mmdet.models.TOODHead`. The last layers of both branches start with a bias of 0.
    """

    classifiers = ('tood_cls', 'cls_prob_module.2')
    own_init = True

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Logits ``(N, num_classes, H, W)`` of the scores, and boxes ``(N, 4, H, W)`` in strides, of every level."""
        # TOODHead returns probabilities. The logits of its branches are more precise, in particular under autocast.
        with _outputs(self.tood_cls) as class_logits, _outputs(self.cls_prob_module) as alignment_logits:
            _, bbox_preds = super().forward(feats)
        logits = [geometric_mean_logit(*both) for both in zip(class_logits, alignment_logits, strict=True)]
        return logits, bbox_preds

    def deform_sampling(self, feat: Tensor, offset: Tensor) -> Tensor:
        """Box maps sampled at offsets, in float32 under bfloat16 autocast, which MMCV does not support."""
        return super().deform_sampling(without_bfloat16(feat), without_bfloat16(offset))

    def predict_by_feat(self, cls_scores: list[Tensor], *args: Any, **kwargs: Any) -> Any:
        """Detections; arguments as for ``TOODHead``, with logits in place of probabilities."""
        return super().predict_by_feat([level.sigmoid() for level in cls_scores], *args, **kwargs)

    def decode_level(self, priors: Tensor, predictions: Tensor, stride: int) -> Tensor:
        return predictions * stride

    def assigner_scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def alignment(self, metrics: Tensor) -> Tensor | None:
        return None if self.epoch < self.initial_epoch else metrics


@contextmanager
def _outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """A list that receives what a module returns at each call inside the context."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()
