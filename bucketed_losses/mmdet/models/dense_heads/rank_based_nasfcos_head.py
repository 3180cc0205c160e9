"""NAS-FCOS trained with a ranking loss."""

from __future__ import annotations

from mmdet.models.dense_heads import NASFCOSHead
from mmdet.registry import MODELS

from ..recipes import Role, ranking_head
from ..rules import POINT_HEAD
from .rank_based_fcos_head import RankBasedFCOSHead


@ranking_head(NASFCOSHead, role=Role.DENSE, rules=POINT_HEAD, unused=['loss_centerness', 'centerness_on_reg'])
@MODELS.register_module()
class RankBasedNASFCOSHead(RankBasedFCOSHead, NASFCOSHead):
    """``NASFCOSHead`` trained with a ranking loss, without centerness; as :class:`RankBasedFCOSHead`.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_centerness: Not used; accepted so that a config may inherit one written for ``NASFCOSHead``.
        kwargs: As for :class:`mmdet.models.NASFCOSHead`. ``init_cfg`` defaults to its own, with a classifier bias of 0.
    """

    default_init = [
        dict(type='Caffe2Xavier', layer=['ConvModule', 'Conv2d']),
        dict(type='Normal', std=0.01, override=[dict(name='conv_reg'), dict(name='conv_cls')]),
    ]
