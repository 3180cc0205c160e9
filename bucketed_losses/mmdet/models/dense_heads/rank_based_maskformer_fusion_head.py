"""The results of MaskFormer and Mask2Former from sigmoid scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmdet.models.seg_heads import MaskFormerFusionHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from ..recipes import Note, Part, Role, Rule, ranking_head


def _threshold_of_segments() -> Rule:
    """A note on the threshold of panoptic segments, if the config asks for them."""

    def apply(part: Part) -> Iterator[Note]:
        if (part.test_cfg or {}).get('panoptic_on', True):
            yield Note(
                f'{part.path}: a panoptic segment is kept if sigmoid(logit - no_object_logit) is above 0.5 and above '
                'object_mask_thr of test_cfg; ranking scores are not probabilities: choose both on validation images'
            )

    return Rule((), apply)


@ranking_head(
    MaskFormerFusionHead,
    role=Role.FUSION,
    rules=(_threshold_of_segments(),),
    reason='scores are sigmoids; it was a softmax with a column for "no object"',
)
@MODELS.register_module()
class RankBasedMaskFormerFusionHead(MaskFormerFusionHead):
    """``MaskFormerFusionHead`` for heads with one sigmoid for each class.

    The score of a (query, class) pair is the sigmoid of its logit. The rest is the stock head's: it gets logits for
    which its softmax gives these scores.

    Args:
        no_object_logit: The logit of "no object" in panoptic segmentation. The score of a query is that of its best
            class, ``sigmoid(logit - no_object_logit)``. As in the stock head, a query takes part if this is more than
            the score of "no object", i.e. above 0.5, and above ``object_mask_thr``. A ranking loss never shifts all
            logits together and does not define this level, so it is a constant. Its value does not change the results
            of instance segmentation.
        args, kwargs: As for ``MaskFormerFusionHead``.
    """

    def __init__(self, *args: Any, no_object_logit: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.no_object_logit = no_object_logit

    def panoptic_postprocess(self, mask_cls: Tensor, mask_pred: Tensor) -> PixelData:
        """The panoptic segments of an image, see :meth:`mmdet.models.MaskFormerFusionHead.panoptic_postprocess`.

        Args:
            mask_cls: ``(num_queries, num_classes)`` logits.
            mask_pred: ``(num_queries, h, w)`` mask logits.
        """
        logits, classes = mask_cls.max(dim=1)
        rows = _one_class_a_row(logits - self.no_object_logit, classes, self.num_classes)
        return super().panoptic_postprocess(rows, mask_pred)

    def instance_postprocess(self, mask_cls: Tensor, mask_pred: Tensor) -> InstanceData:
        """The instances of an image, see :meth:`mmdet.models.MaskFormerFusionHead.instance_postprocess`.

        Args:
            mask_cls: ``(num_queries, num_classes)`` logits.
            mask_pred: ``(num_queries, h, w)`` mask logits.
        """
        num = self.test_cfg.get('max_per_image', 100)
        rows, queries = best_entries(mask_cls, min(num, mask_cls.numel()))
        missing = num - len(rows)
        if not missing:
            return super().instance_postprocess(rows, mask_pred[queries])
        # MMDetection takes as many scores as it may return, so scores of 0 are added, and left out of the result.
        none = queries.new_zeros(missing)
        nothing = _one_class_a_row(rows.new_full((missing,), -torch.inf), none, self.num_classes)
        rows, queries = torch.cat([rows, nothing]), torch.cat([queries, none])
        results = super().instance_postprocess(rows, mask_pred[queries])
        return results[results.scores > 0]


def best_entries(logits: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The (query, class) pairs with the highest logits, one a row, for code of MMDetection that takes a softmax.

    Args:
        logits: ``(num_queries, num_classes)``.
        num: The number of pairs, at most ``num_queries * num_classes``.

    Returns:
        ``(num, num_classes + 1)`` logits whose softmax is the sigmoid of the pair's logit at its class, and 0 at other
        classes; the last column is that of "no object". And ``(num,)`` indices of the queries.
    """
    num_classes = logits.size(1)
    values, entries = logits.flatten().topk(num)
    return _one_class_a_row(values, entries % num_classes, num_classes), entries.div(num_classes, rounding_mode='floor')


def _one_class_a_row(logits: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """``(n, num_classes + 1)``: logits ``(n,)`` at their classes ``(n,)``, 0 for "no object", the others ``-inf``."""
    rows = logits.new_full((len(logits), num_classes + 1), -torch.inf)
    rows[:, -1] = 0
    return rows.scatter_(1, classes.unsqueeze(1), logits.unsqueeze(1))
