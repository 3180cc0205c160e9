"""What the query heads of Co-DETR share: queries made from auxiliary heads, whose targets are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmdet.structures import SampleList
from torch import Tensor

from .query_sets import QuerySet, QueryTargets, layer_prefix

if TYPE_CHECKING:
    from mmdet.models.dense_heads import DeformableDETRHead as _Host
else:
    _Host = object


class AuxiliarySetsMixin(_Host):
    """A mixin for MMDetection's ``DeformableDETRHead`` and ``DINOHead``.

    Args:
        lambda_1: Weight of the losses of the auxiliary queries, Eq. 15.
        args, kwargs: As for the head.
    """

    def __init__(self, *args: Any, lambda_1: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lambda_1 = lambda_1

    def loss(
        self,
        hidden_states: Tensor,
        references: list[Tensor],
        enc_outputs_class: Tensor | None,
        enc_outputs_coord: Tensor | None,
        batch_data_samples: SampleList,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Losses of all queries; arguments as for the stock head.

        Args:
            args, kwargs: Further arguments of ``loss_by_feat``, among them ``auxiliary``: further queries whose targets
                are given (:meth:`auxiliary_sets`).
        """
        return self.loss_by_feat(
            *self(hidden_states, references),
            enc_outputs_class,
            enc_outputs_coord,
            [sample.gt_instances for sample in batch_data_samples],
            [sample.metainfo for sample in batch_data_samples],
            *args,
            **kwargs,
        )

    def auxiliary_sets(
        self, prefix: str, hidden_states: Tensor, references: list[Tensor], targets: QueryTargets
    ) -> list[QuerySet]:
        """The predictions of one group of auxiliary queries; every decoder layer has the same targets.

        Args:
            prefix: The beginning of the log names.
            hidden_states, references: As for ``forward``.
            targets: The targets of the queries.
        """
        layers = list(zip(*self(hidden_states, references), strict=True))
        return [
            QuerySet(prefix + layer_prefix(layer, len(layers)), logits, boxes, targets, self.lambda_1)
            for layer, (logits, boxes) in enumerate(layers)
        ]
