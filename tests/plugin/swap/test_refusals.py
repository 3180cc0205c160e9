"""What has no ranking form says why in one sentence, and what it names instead can be converted."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('mmdet')

import swap_survey
from mmdet.models.dense_heads import FreeAnchorRetinaHead, YOLACTHead
from mmdet.models.reid import BaseReID
from mmdet.registry import MODELS
from mmengine.config import Config

from bucketed_losses.cli.convert import CONVERTERS
from bucketed_losses.mmdet.models import recipes as module
from bucketed_losses.mmdet.models.recipes import Role, no_ranking_forms, ranking_head, recipe_of
from bucketed_losses.mmdet.models.rules import ANCHOR_HEAD
from bucketed_losses.mmdet.swap import SwapError, swap_loss

CROWDDET = 'crowddet/crowddet-rcnn_refine_r50_fpn_8xb2-30e_crowdhuman.py'
# The part that is refused, why, and what works instead.
REFUSED = {
    'free_anchor/freeanchor_r50_fpn_1x_coco.py': (
        'model.bbox_head has the type FreeAnchorRetinaHead',
        'it weights the anchors of a bag by their probabilities of class and box',
        'the nearest head that has one is RetinaHead',
    ),
    'autoassign/autoassign_r50-caffe_fpn_1x_coco.py': (
        'model.bbox_head has the type AutoAssignHead',
        'each location in an object is positive and negative at once',
        'the nearest head that has one is FCOSHead',
    ),
    CROWDDET: (
        'model.roi_head has the type MultiInstanceRoIHead',
        'it predicts two boxes for each proposal and chooses their order by the loss of each order',
        'the nearest head that has one is StandardRoIHead',
    ),
    'misc/d2_retinanet_r50-caffe_fpn_ms-90k_coco.py': (
        'model has the type Detectron2Wrapper',
        'Detectron2 builds its heads and computes their losses',
        'convert mmdet::retinanet/retinanet_r50-caffe_fpn_ms-1x_coco.py instead',
    ),
    'misc/d2_faster-rcnn_r50-caffe_fpn_ms-90k_coco.py': (
        'model has the type Detectron2Wrapper',
        'Detectron2 builds its heads and computes their losses',
        'convert mmdet::faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-90k_coco.py instead',
    ),
    'misc/d2_mask-rcnn_r50-caffe_fpn_ms-90k_coco.py': (
        'model has the type Detectron2Wrapper',
        'Detectron2 builds its heads and computes their losses',
        'convert mmdet::mask_rcnn/mask-rcnn_r50-caffe_fpn_ms-poly-1x_coco.py instead',
    ),
    'centernet/centernet_r18_8xb16-crop512-140e_coco.py': (
        'model.bbox_head has the type CenterNetHead',
        'it scores the centres of boxes in heat maps',
        'the nearest head that has one is CenterNetUpdateHead',
    ),
    'cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py': (
        'model.bbox_head has the type CornerHead',
        'it scores the corners of boxes in heat maps',
        None,
    ),
    'glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py': (
        'model.bbox_head has the type ATSSVLFusionHead',
        'it scores boxes against the tokens of a text',
        'the nearest head that has one is ATSSHead',
    ),
    'grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py': (
        'model.bbox_head has the type GroundingDINOHead',
        'it scores boxes against the tokens of a text',
        'the nearest head that has one is DINOHead',
    ),
    'mm_grounding_dino/grounding_dino_swin-t_pretrain_obj365.py': (
        'model.bbox_head has the type GroundingDINOHead',
        'it scores boxes against the tokens of a text',
        'the nearest head that has one is DINOHead',
    ),
    'reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py': (
        'model has the type BaseReID',
        'it identifies objects in cut-out images and scores no boxes',
        None,
    ),
}


def config(name):
    return Config.fromfile(swap_survey.CONFIGS / name, import_custom_modules=False)


@pytest.mark.parametrize('name', REFUSED, ids=lambda name: name.split('/')[-1][:25])
def test_a_refusal_is_one_sentence_with_a_reason(name):
    part, reason, instead = REFUSED[name]
    with pytest.raises(SwapError) as caught:
        swap_loss(config(name))
    message = str(caught.value)
    assert message.startswith(f'{part}, which has no ranking form: {reason}')
    assert '. ' not in message and '\n' not in message and not message.endswith('.')
    assert message.endswith(f'; {instead}') if instead else ';' not in message


def test_what_is_refused_has_no_recipe_and_its_nearest_head_has_one():
    assert len(no_ranking_forms()) > 5
    for stock, refusal in no_ranking_forms().items():
        assert recipe_of(stock) is None, stock
        if isinstance(refusal.instead, type):
            assert recipe_of(refusal.instead) is not None, stock


@pytest.mark.parametrize('name', [name for name in REFUSED if name.startswith('misc/d2_')], ids=lambda name: name[8:20])
def test_the_configs_named_instead_are_converted(name):
    instead = REFUSED[name][2].removeprefix('convert mmdet::').removesuffix(' instead')
    assert swap_loss(config(instead)).changes


@pytest.mark.parametrize('name', [name for name in REFUSED if 'free' in name or 'auto' in name], ids=lambda n: n[:10])
def test_the_nearest_dense_head_fits_into_the_config(name):
    cfg = config(name)
    cfg.model.bbox_head.type = REFUSED[name][2].split()[-1]
    swapped = swap_loss(cfg).cfg
    head = swapped.model.bbox_head
    assert head.type == f'RankBased{REFUSED[name][2].split()[-1]}' and head.loss_cls.type == 'BucketedRSLoss'
    MODELS.build({**head, 'train_cfg': swapped.model.train_cfg, 'test_cfg': swapped.model.test_cfg})


def test_a_head_with_a_recipe_is_not_refused(monkeypatch):
    """A user may write the ranking form."""
    monkeypatch.setattr(module, '_RECIPES', dict(module._RECIPES))
    name = next(iter(REFUSED))

    class RankBasedFreeAnchorHead(FreeAnchorRetinaHead):
        """A user's own."""

    ranking_head(FreeAnchorRetinaHead, role=Role.DENSE, rules=ANCHOR_HEAD)(RankBasedFreeAnchorHead)
    assert swap_loss(config(name)).cfg.model.bbox_head.type == 'RankBasedFreeAnchorHead'


@pytest.mark.parametrize(
    ('table', 'stock', 'name', 'words'),
    [
        (
            '_RECIPES',
            YOLACTHead,
            'yolact/yolact_r50_1xb8-55e_coco.py',
            r'YOLACTHead.*softmax with background.*ATSSHead',
        ),
        (
            '_NO_RANKING_FORMS',
            BaseReID,
            'reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py',
            'BaseReID has no classification loss',
        ),
    ],
)
def test_what_nothing_was_declared_for_is_refused_by_its_config(table, stock, name, words, monkeypatch):
    declared = getattr(module, table)
    monkeypatch.setattr(module, table, {key: value for key, value in declared.items() if key is not stock})
    with pytest.raises(SwapError, match=words):
        swap_loss(config(name))


@pytest.mark.parametrize(
    ('name', 'head'),
    [
        ('dino/dino-4scale_r50_8xb2-12e_coco.py', 'model.bbox_head'),
        ('detr/detr_r50_8xb2-150e_coco.py', 'model.bbox_head'),
        ('sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py', 'model.roi_head.bbox_head.0'),
        ('mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', 'model.panoptic_head'),
    ],
    ids=lambda value: value.split('/')[0],
)
def test_alrp_is_refused_for_queries_before_a_config_is_written(name, head):
    with pytest.raises(
        SwapError,
        match=rf'^{head} cannot be trained with aLRPLoss: it is a box loss too.*choose ap, bap, rs, brs or dr$',
    ):
        swap_loss(config(name), 'alrp')
    assert swap_loss(config(name), 'ap').changes


def test_the_project_co_detr_is_named_with_what_works_instead():
    """Its detector has the name of this package's, and other keys."""
    model = dict(
        type='CoDETR',
        query_head=dict(type='CoDINOHead'),
        rpn_head=dict(type='RPNHead'),
        roi_head=[dict(type='CoStandardRoIHead')],
        bbox_head=[dict(type='CoATSSHead')],
    )
    with pytest.raises(
        SwapError, match=r'^model\.query_head is a key of the CoDETR in projects/CO-DETR of MMDetec'
    ) as why:
        swap_loss(dict(model=model))
    for folder in ('configs/co_dino', 'configs/co_detr'):
        assert folder in str(why.value) and (Path(__file__).parents[3] / folder).is_dir()
    assert str(why.value).endswith('bucketed-losses convert co-detr') and 'co-detr' in CONVERTERS
