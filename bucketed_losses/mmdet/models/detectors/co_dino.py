"""Co-DINO: DINO trained together with auxiliary heads that use one-to-many assignment."""

from __future__ import annotations

from mmdet.models.detectors import DINO
from mmdet.registry import MODELS

from .auxiliary_heads import AuxiliaryHeadsMixin
from .auxiliary_queries import AuxiliaryContentEmbedding


@MODELS.register_module()
class CoDINO(AuxiliaryHeadsMixin, DINO):
    """MMDetection's DINO with the auxiliary heads of Co-DETR (:class:`AuxiliaryHeadsMixin`).

    Without auxiliary heads this detector is ``DINO``. Losses of the query head are logged as by ``DINOHead``:
    ``loss_…``, ``d0.…``, ``enc_loss_…`` and, for denoising queries, ``dn_loss_…`` and ``d0.dn_loss_…``. Denoising
    queries pass through the decoder together with the matched ones, masked as in ``DINO``.

    Args:
        args, kwargs: As for :class:`mmdet.models.DINO` and :class:`AuxiliaryHeadsMixin`. ``bbox_head`` is a
            ``CoDINOHead`` or ``RankBasedCoDINOHead``.

    Raises:
        ValueError: As :class:`AuxiliaryHeadsMixin`.
    """

    # DINO's decoder computes the position of a query from its box in every layer.
    auxiliary_embedding = AuxiliaryContentEmbedding
