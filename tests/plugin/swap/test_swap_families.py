"""Ranking losses in configs of the families around Faster, Mask and Cascade R-CNN, of trackers and of Soft Teacher."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest

pytest.importorskip('mmdet')

import swap_survey
import torch
from demo_batches import demo_batch, demo_video
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope, init_default_scope

from bucketed_losses.mmdet.swap import LOSSES, SwapError, swap_loss

GA, SABL = 'guided_anchoring', 'sabl'
QDTRACK = 'qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py'
MASKTRACK = 'masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019.py'
SORT = 'sort/sort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py'
BYTETRACK = 'bytetrack/bytetrack_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py'
SOFT_TEACHER = 'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
# The configs of families, with names of losses that they train.
FAMILIES = [
    ('htc/htc_r50_fpn_1x_coco.py', 's2.loss_mask loss_semantic_seg'),
    ('detectors/detectors_htc-r50_1x_coco.py', 's2.loss_mask'),
    ('scnet/scnet_r50_fpn_1x_coco.py', 'loss_mask loss_glbctx'),
    ('ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco.py', 'loss_mask_iou'),
    ('point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py', 'loss_point'),
    ('double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py', 'loss_bbox'),
    ('dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py', 'loss_bbox'),
    ('grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco.py', 'loss_grid'),
    ('tridentnet/tridentnet_r50-caffe_1x_coco.py', 'loss_bbox'),
    ('pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py', 'loss_bbox'),
    ('pisa/retinanet-r50_fpn_pisa_1x_coco.py', 'loss_bbox'),
    (f'{SABL}/sabl-faster-rcnn_r50_fpn_1x_coco.py', 'loss_bbox_cls loss_bbox_reg'),
    (f'{SABL}/sabl-cascade-rcnn_r50_fpn_1x_coco.py', 's2.loss_bbox_cls s2.loss_bbox_reg'),
    (f'{SABL}/sabl-retinanet_r50_fpn_1x_coco.py', 'loss_bbox_cls loss_bbox_reg'),
    (f'{GA}/ga-faster-rcnn_r50-caffe_fpn_1x_coco.py', 'rpn_loss_anchor_shape loss_rpn_rank'),
    (f'{GA}/ga-retinanet_r50-caffe_fpn_1x_coco.py', 'loss_shape loss_loc'),
    ('cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py', 's0.loss_rpn_reg s1.loss_rpn_rank'),
    ('libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py', 'loss_bbox'),
    (QDTRACK, 'loss_rank loss_track'),
    (MASKTRACK, 'loss_rank loss_mask loss_match'),
    (SORT, 'loss_rank'),
    (BYTETRACK, 'loss_rank loss_bbox'),
    (SOFT_TEACHER, 'sup_loss_rank unsup_loss_rank unsup_loss_bbox'),
]


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def config(name):
    return Config.fromfile(swap_survey.CONFIGS / name, import_custom_modules=False)


@pytest.mark.parametrize(
    ('name', 'expected'), FAMILIES, ids=lambda value: value.split('/')[-1][:30] if '/' in value else ''
)
def test_swapped_configs_train_a_step(name, expected):
    outcome = swap_survey.outcome(swap_survey.CONFIGS / name)
    assert outcome.what == swap_survey.TRAINED, outcome
    assert set(expected.split()) <= set(outcome.detail.split()), outcome.detail


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('htc/htc_r50_fpn_1x_coco.py', 'semantic_head keeps its loss'),
        ('scnet/scnet_r50_fpn_1x_coco.py', 'glbctx_head keeps its loss'),
        ('dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py', 'initial_beta and beta_topk have no effect'),
        ('pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py', 'carl of train_cfg has no effect'),
        ('pisa/retinanet-r50_fpn_pisa_1x_coco.py', 'isr of train_cfg has no effect'),
        ('pisa/ssd300_pisa_coco.py', 'carl of train_cfg has no effect: it weights box losses by scores'),
        ('pisa/ssd512_pisa_coco.py', 'neg_pos_ratio of train_cfg has no effect: all anchors are ranked'),
        ('lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py', 'model.teacher_bbox_head stays as it is'),
        ('lad/lad_r101-paa-r50_fpn_2xb8_coco_1x.py', 'set its type to RankBasedLADHead'),
        (f'{SABL}/sabl-retinanet_r50_fpn_1x_coco.py', 'not multiplied by the confidences of the buckets'),
        (f'{GA}/ga-retinanet_r50-caffe_fpn_1x_coco.py', 'loss_loc keeps its weight'),
        ('cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py', 'has no classifier'),
        (QDTRACK, 'the detector of the QDTrack is converted; track_head and tracker stay as they are'),
        (SORT, 'model.tracker compares the scores of detections with thresholds'),
        (SORT, '64ee2ed4.pth, and this config does not train its detector: replace it by a checkpoint of the swapped'),
        (QDTRACK, '.pth; if it is a stock detector: the classifier of model.detector.roi_head.bbox_head starts anew'),
        ('panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', 'panoptic_fusion_head draws each instance with a score above'),
        (SOFT_TEACHER, 'cls_pseudo_thr are compared with ranking scores'),
        (SOFT_TEACHER, 'ignored if the teacher gives a class at least pseudo_label_initial_score_thr'),
    ],
)
def test_what_is_kept_or_dropped_is_said(name, words):
    notes = swap_loss(config(name)).notes
    assert any(words in note for note in notes), notes


@pytest.mark.parametrize(
    'name', ['mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py']
)
def test_other_detectors_draw_no_segments_by_the_threshold_of_boxes(name):
    assert not any('draws each instance' in note for note in swap_loss(config(name)).notes)


def losses_in(part):
    """The configs of the ranking losses in a part of a config."""
    if isinstance(part, dict):
        if part.get('type') in LOSSES.values():
            yield part
        part = part.values()
    if not isinstance(part, str) and isinstance(part, Iterable):
        for value in part:
            yield from losses_in(value)


@pytest.mark.parametrize('name', [name for name, _ in FAMILIES], ids=lambda name: name.split('/')[-1][:30])
def test_every_loss_of_a_swapped_config_can_be_built(name):
    cfg = config(name)
    for loss, kind in LOSSES.items():
        configs = list(losses_in(swap_loss(cfg, loss).cfg.model))
        assert configs and all(type(MODELS.build(found)).__name__ == kind for found in configs)


def test_alrp_trains_side_aware_boxes():
    outcome = swap_survey.outcome(swap_survey.CONFIGS / f'{SABL}/sabl-retinanet_r50_fpn_1x_coco.py', 'alrp')
    assert outcome.what == swap_survey.TRAINED, outcome
    assert {'loss_cls', 'loss_bbox', 'loss_bbox_cls', 'loss_bbox_reg'} <= set(outcome.detail.split())


@pytest.mark.parametrize('loss', LOSSES)
def test_side_aware_boxes_are_not_balanced(loss):
    cascade = swap_loss(config(f'{SABL}/sabl-cascade-rcnn_r50_fpn_1x_coco.py'), loss).cfg.model
    retina = swap_loss(config(f'{SABL}/sabl-retinanet_r50_fpn_1x_coco.py'), loss).cfg.model
    for head in [*cascade.roi_head.bbox_head, retina.bbox_head]:
        assert not MODELS.build(head.loss_cls).self_balancing
        assert ('self_balancing' in head.loss_cls) == (loss in ('rs', 'brs')), 'others do not scale box losses anyway'
    if loss in ('rs', 'brs'):
        assert MODELS.build(cascade.rpn_head.loss_cls).self_balancing, 'it has a box loss on decoded boxes'


def test_only_the_detector_of_a_tracker_changes():
    original = config(QDTRACK)
    swap = swap_loss(original)
    assert {change.path.split('.')[0] for change in swap.changes} == {'model', 'optim_wrapper', 'custom_imports'}
    assert all(change.path.startswith('model.detector.') for change in swap.changes if change.path.startswith('model'))
    before, after = original.model.to_dict(), swap.cfg.model.to_dict()
    assert {key: before[key] for key in before if key != 'detector'} == {
        key: after[key] for key in after if key != 'detector'
    }
    plain = swap_loss(dict(model=original.model.detector)).cfg.model
    assert swap.cfg.model.detector == plain


def test_a_swapped_tracker_is_not_swapped_again():
    with pytest.raises(SwapError, match=r'already has a ranking loss: model\.detector\.rpn_head'):
        swap_loss(swap_loss(config(QDTRACK)).cfg)


def test_a_tracker_around_an_unknown_detector_names_its_head():
    cfg = config(QDTRACK)
    cfg.model.detector.roi_head.type = 'MultiInstanceRoIHead'
    message = r'model\.detector\.roi_head has the type MultiInstanceRoIHead, which has no ranking'
    with pytest.raises(SwapError, match=message):
        swap_loss(cfg)


def small(cfg, **settings):
    """A swapped model with few proposals and a low threshold, built with random weights."""
    init_default_scope('mmdet')
    swapped = swap_loss(cfg).cfg
    swapped.merge_from_dict({f'model.{key}': value for key, value in settings.items()})
    model = swapped.model
    swap_survey.without_downloads(model)
    if 'roi_head' in model.detector:
        model.detector.test_cfg.rpn.update(nms_pre=50, max_per_img=50)
        model.detector.test_cfg.rcnn.update(score_thr=0.0)
        model.detector.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=50)
    torch.manual_seed(0)
    model = MODELS.build(model)
    model.init_weights()
    return model


@pytest.mark.parametrize(
    ('name', 'needs', 'settings'),
    [
        (QDTRACK, None, {'tracker.init_score_thr': 0.0}),
        (SORT, 'motmetrics', {'tracker.obj_score_thr': 0.0}),  # MMDetection's SORTTracker asks for it
        (BYTETRACK, 'lap', {'tracker.obj_score_thrs': dict(high=0.0, low=0.0), 'tracker.init_track_thr': 0.0}),
    ],
    ids=['qdtrack', 'sort', 'bytetrack'],
)
def test_swapped_trackers_track(name, needs, settings):
    if needs:
        pytest.importorskip(needs)
    model = small(config(name), **settings).eval()
    with torch.no_grad():
        (result,) = model.test_step(demo_video())
    frames = result.video_data_samples
    assert len(frames) == 2
    assert all(len(frame.pred_track_instances.instances_id) > 0 for frame in frames)


class Teacher:
    """Soft Teacher on one labelled and one unlabelled image, and what its student ranks."""

    def __init__(self, **settings):
        thresholds = dict(
            pseudo_label_initial_score_thr=0.5, rpn_pseudo_thr=0.5, cls_pseudo_thr=0.5, reg_pseudo_thr=1.0
        )
        self.cfg = config(SOFT_TEACHER)
        self.cfg.model.semi_train_cfg.update({**thresholds, **settings})
        self.model = small(self.cfg)
        self.seen = []
        # Random features are large, and so would the scores be.
        torch.nn.init.zeros_(self.model.teacher.roi_head.bbox_head.fc_cls.weight)
        head = self.model.student.roi_head.bbox_head
        loss = head.loss
        head.loss = lambda *args, **kwargs: self.seen.append(args) or loss(*args, **kwargs)

    def losses(self):
        data = self.model.data_preprocessor(demo_batch(self.cfg), training=True)
        return self.model(**data, mode='loss')


def test_soft_teacher_ignores_rois_that_may_be_objects():
    """The teacher's scores are 0.5: with a lower threshold every RoI may be an object, with a higher one none."""
    for threshold, all_ignored in ((0.3, True), (0.9, False)):
        teacher = Teacher(pseudo_label_initial_score_thr=threshold, cls_pseudo_thr=0.95)
        losses = teacher.losses()
        assert {'unsup_loss_rank', 'unsup_loss_sort', 'unsup_loss_bbox', 'unsup_loss_rpn_rank'} <= losses.keys()
        assert all(torch.as_tensor(value).isfinite().all() for value in losses.values())
        _, _, _, labels, weights = teacher.seen[1][:5]  # after the labelled image
        background = labels == 80
        assert background.sum() > 20
        assert (weights[background] == 0).all() == all_ignored
        assert (weights[background] == 1).all() != all_ignored
        assert (weights[~background] == 1).all()


def with_scope(part):
    """A part of a config with the scope of each class of MMDetection in its name, so that it is found in any scope."""
    if isinstance(part, dict):
        known = part.get('type') in MODELS.module_dict or part.get('type') in TASK_UTILS.module_dict
        part = {**part, 'type': f'mmdet.{part["type"]}'} if known else part
        return {key: with_scope(value) for key, value in part.items()}
    return [with_scope(value) for value in part] if isinstance(part, list) else part


def test_names_are_found_without_a_default_scope(monkeypatch):
    """MMDetection's lazy configs have none."""
    model = with_scope(config(SOFT_TEACHER).model.to_dict())
    swapped = swap_loss(dict(model=model, default_scope=None)).cfg.model
    assert (
        swapped == swap_loss(dict(model=model)).cfg.model == swap_loss(dict(model=model, default_scope='own')).cfg.model
    )
    assert swapped.type == 'mmdet.RankBasedSoftTeacher'
    assert swap_loss(dict(model=model, default_scope='mmdet')).cfg.model.type == 'RankBasedSoftTeacher'
    monkeypatch.setattr(DefaultScope, 'get_current_instance', lambda: None)
    built = ROOT_MODELS.build(swapped)
    assert type(built.student.roi_head.bbox_head.loss_cls).__name__ == 'BucketedRSLoss'


def test_soft_teacher_in_bfloat16():
    teacher = Teacher()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = teacher.losses()
    assert {'sup_loss_rank', 'unsup_loss_rank', 'unsup_loss_bbox'} <= losses.keys()
    assert all(torch.as_tensor(value).isfinite().all() for value in losses.values())


def test_soft_teacher_has_no_memory():
    with pytest.raises(ValueError, match=r'memory of rpn_head\.loss_cls must be 0, got 7'):
        small(config(SOFT_TEACHER), **{'detector.rpn_head.loss_cls.memory': 7})


def test_soft_teacher_predicts():
    teacher = Teacher()
    teacher.model.eval()
    data = demo_batch(config('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'))
    data = teacher.model.teacher.data_preprocessor(data)
    with torch.no_grad():
        results = teacher.model(**data, mode='predict')
    assert all(len(result.pred_instances.scores) > 0 for result in results)
