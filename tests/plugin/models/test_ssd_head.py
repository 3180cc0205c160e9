"""SSD: a sigmoid for each class instead of a softmax with background."""

from __future__ import annotations

import pytest

pytest.importorskip('mmdet')

import swap_survey
from head_reference import assert_equal_losses, slow_losses
from mmengine.config import Config
from small_anchor_heads import METAS, predictions_of
from small_dense_heads import NUM_CLASSES, OBJECTS, build_head, features, random_maps

from bucketed_losses.mmdet.swap import swap_loss


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
def test_losses_equal_a_slow_computation(loss):
    head = build_head('RankBasedSSDHead', loss)
    cls_scores, bbox_preds = head(features(head))
    cls_scores, bbox_preds = random_maps(cls_scores), random_maps(bbox_preds, seed=3)
    losses = head.loss_by_feat(cls_scores, bbox_preds, OBJECTS, METAS)
    predictions = predictions_of(head, cls_scores, bbox_preds, OBJECTS)
    assert sum(p.label < NUM_CLASSES for p in predictions) > 8
    assert_equal_losses(losses, [*cls_scores, *bbox_preds], *slow_losses(loss, predictions, 2.0))


def test_there_is_no_channel_for_background():
    head = build_head('RankBasedSSDHead')
    for level, num_priors in zip(head(features(head))[0], head.num_base_priors, strict=True):
        assert level.size(1) == num_priors * NUM_CLASSES
    assert head.num_base_priors == [4, 6]


@pytest.mark.parametrize('size', [300, 512])
def test_pisa_ssd_becomes_ssd(size):
    """ISR and CARL stay in its config, where nothing reads them."""
    pisa, plain = (
        swap_loss(Config.fromfile(swap_survey.CONFIGS / name)).cfg.model
        for name in (f'pisa/ssd{size}_pisa_coco.py', f'ssd/ssd{size}_coco.py')
    )
    assert pisa.bbox_head.type == 'RankBasedSSDHead'
    assert set(pisa.train_cfg) - set(plain.train_cfg) == {'isr', 'carl'}
    del pisa.train_cfg['isr'], pisa.train_cfg['carl']
    assert pisa == plain
