"""What the training of Co-DETR, BRS-DETR, BRS Co-DINO meets: seeds, no objects, few queries, several processes."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip('mmdet')

from config_models import losses_after_backward
from gloo import on_processes, trained_in_step
from launching import ROOT
from mmengine.structures import InstanceData
from small_co_detr import BASELINE, BOTH, BRS, BRS_CO_DINO, CO_DINO, batch, build, load
from small_query_heads import shake

pytestmark = pytest.mark.medium


def step(detector, data, optimizer):
    total, _ = detector.parse_losses(detector(**copy.deepcopy(data), mode='loss'))
    optimizer.zero_grad()
    total.backward()
    optimizer.step()


def test_training_repeats_itself_under_a_seed():
    states = []
    for seed in (7, 7, 8):
        # ATSS has 9 positives per object here: more than the 10 queries that its group may have.
        detector = build(load(BRS, max_pos_coords=10)).train()
        data = batch(detector, num_items=(4, 4))
        torch.manual_seed(seed)
        optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
        for _ in range(2):
            step(detector, data, optimizer)
        states.append(detector.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0]), 'the seed draws the queries'


@BOTH
@pytest.mark.parametrize('situation', ['no objects', 'all crowd', 'one object', 'one image without objects'])
def test_training_goes_on(config, situation):
    detector = build(load(config)).train()
    num_items = {'no objects': (0, 0), 'all crowd': (2, 3), 'one object': (1, 0), 'one image without objects': (4, 0)}
    data = batch(detector, num_items[situation])
    if situation == 'all crowd':
        for sample in data['data_samples']:
            sample.ignored_instances = InstanceData(bboxes=sample.gt_instances.bboxes)
            sample.gt_instances = sample.gt_instances[:0]
    losses = losses_after_backward(detector, data)
    boxes = {name: value for name, value in losses.items() if 'bbox' in name or 'iou' in name}
    if situation in ('no objects', 'all crowd'):
        assert not any(boxes.values())
        assert config == BASELINE or not any(losses.values())
    else:
        assert all(boxes.values())


@BOTH
def test_more_objects_than_queries_than_locations(config):
    detector = build(load(config, num_queries=900)).train()
    data = batch(detector, (30, 25), sizes=((64, 64), (64, 64)))
    losses_after_backward(detector, data)  # 85 locations, so 85 queries
    detector = build(load(config, num_queries=5)).train()
    losses = losses_after_backward(detector, batch(detector, (30, 25)))
    assert losses['loss_bbox'] > 0
    detector.eval()
    detector.bbox_head.test_cfg['max_per_img'] = 5
    with torch.no_grad():
        assert len(detector(**batch(detector, training=False), mode='predict')[0].pred_instances) == 5


@BOTH
@pytest.mark.parametrize('most', [100, 5, None])
def test_images_with_fewer_queries_than_detections_are_wanted(config, most):
    """A 64 x 64 image has 85 locations, which are 85 queries of one class."""
    detector = shake(build(load(config, num_classes=1, num_queries=300))).eval()
    detector.bbox_head.test_cfg.pop('max_per_img')
    if most:
        detector.bbox_head.test_cfg['max_per_img'] = most
    with torch.no_grad():
        (result,) = detector(**batch(detector, (1,), sizes=((64, 64),), training=False), mode='predict')
    detections = result.pred_instances
    assert len(detections) == min(most or 85, 85)
    assert (detections.scores.diff() <= 0).all() and (detections.labels == 0).all()
    assert detector.bbox_head.test_cfg.get('max_per_img') == most


@BOTH
@pytest.mark.parametrize('head', ['rcnn', 'dense', 'rpn'])
def test_one_auxiliary_head_without_positives(config, head):
    model = load(config)
    if head != 'dense':
        model.train_cfg[head].assigner.update(pos_iou_thr=1.1, min_pos_iou=1.1)
        model.train_cfg[head].sampler.update(add_gt_as_proposals=False)
    detector = build(model).train()
    if head == 'dense':
        original = detector.dense_heads[0].assigner.assign

        def nothing(*args):
            result = original(*args)
            result.gt_inds.zero_()
            return result

        detector.dense_heads[0].assigner.assign = nothing
    losses = losses_after_backward(detector, batch(detector))
    index, name = {'rcnn': (0, 'roi0'), 'dense': (1, 'atss1'), 'rpn': (None, 'loss_rpn')}[head]
    assert not any(value for key, value in losses.items() if key.startswith(name) and 'bbox' in key)
    if index is not None:
        assert losses[f'aux{index}.loss_bbox'] == losses[f'aux{index}.d0.loss_iou'] == 0
        assert losses[f'aux{1 - index}.loss_bbox'] > 0


def test_processes_stay_in_step_if_one_of_them_has_no_objects():
    """Every parameter gets a gradient on both; DDP does not look for unused ones."""
    models = [load(config) for config in (BRS, CO_DINO, BRS_CO_DINO)]
    quality_focal = dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0)
    models.append(load(BRS_CO_DINO, **{'bbox_head.loss_dn_cls': quality_focal}))
    for equal in on_processes(2, trained_in_step, build, batch, models):
        assert equal == [True] * len(models)


def test_the_tools_train_it_and_test_every_head(shapes_root, tmp_path):
    pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')
    config = 'configs/shapes/co-deformable-detr_efficientnet-lite0_brs_1xb4-12e_shapes.py'
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'SHAPES_ROOT': str(shapes_root)}

    def run(tool, *args):
        done = subprocess.run(
            [sys.executable, f'tools/{tool}.py', config, *args], cwd=ROOT, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    log = run(
        'train', '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1'
    )
    for name in (
        'enc.loss_rank',
        'd0.loss_sort',
        'loss_rpn_bbox',
        'roi0.loss_rank',
        'atss1.loss_sort',
        'aux1.d1.loss_iou',
    ):
        assert f' {name}: ' in log
    for head in ('roi0', 'atss1'):
        options = [f'model.test_cfg.head={head}', 'model.test_cfg.rpn.max_per_img=20']
        assert 'coco/bbox_mAP: ' in run(
            'test', tmp_path / 'epoch_1.pth', '--work-dir', tmp_path / head, '--cfg-options', *options
        )
