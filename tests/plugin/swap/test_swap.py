"""A ranking loss in configs of others: what changes, what stays, what is refused, and that the result trains."""

from __future__ import annotations

import csv
import logging
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmdet')

import swap_survey
from command_line import run_verb
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS

import bucketed_losses
from bucketed_losses.cli import swap as tool
from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine.config_checks import lazy_config_files, read_editable_config
from bucketed_losses.mmdet.swap import LOSSES, SwapError, swap_loss

ROOT = Path(__file__).resolve().parents[3]
FASTER = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
ATSS = 'mmdet::atss/atss_r50_fpn_1x_coco.py'


def mmdet_config(name):
    return Config.fromfile(swap_survey.CONFIGS / name)


def model_of(cfg):
    """A model's config, without what says the same twice."""
    model = cfg.model.to_dict() if hasattr(cfg.model, 'to_dict') else cfg.model
    weights = model.get('roi_head', {}).get('stage_loss_weights')
    assert weights is None or all(weight == 1 for weight in weights)
    return without_scope(model)


def without_scope(part):
    if isinstance(part, dict):
        # neg_pos_ub=-1 is RandomSampler's default, and a self-balanced box loss has no weight.
        return {
            key: without_scope(value)
            for key, value in part.items()
            if key not in ('_scope_', 'neg_pos_ub', 'clip_border', 'debug')
        }
    if isinstance(part, (list, tuple)):
        return [without_scope(value) for value in part]
    return part


def without_published_settings(cfg):
    """A config of a row of the paper without what it has as published, and what a swap leaves alone."""
    model = cfg.model
    for head in (model.get('bbox_head'), model.get('dense_heads')):
        if head is not None:
            head.pop('classifier_prior', None)
    if mask_head := model.get('roi_head', {}).get('mask_head'):
        mask_head.loss_mask = dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0)
    if cfg.model.type.endswith('PAA'):
        model.bbox_head.loss_bbox.loss_weight = 1.3
    if cfg.model.type.endswith('CascadeRCNN'):
        model.train_cfg.rpn_proposal.max_per_img = 2000
        model.train_cfg.rpn.allowed_border = -1
    if cfg.model.type.endswith('CoDETR'):
        model.train_cfg.rpn_proposal.max_per_img = 1000
        model.train_cfg.rcnn.sampler = dict(
            type='RandomSampler', num=1000000, pos_fraction=1.0, add_gt_as_proposals=True
        )
        for head in (model.rpn_head, model.roi_heads.bbox_head, model.dense_heads):
            assert head.loss_cls.pop('box_weights') == 'equal'
    return cfg


@pytest.mark.parametrize(
    ('stock', 'ours'),
    [
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'faster_rcnn/faster-rcnn_r50_fpn_brs_4xb4-1x_coco.py'),
        ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'mask_rcnn/mask-rcnn_r50_fpn_brs_4xb4-1x_coco.py'),
        ('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', 'cascade_rcnn/cascade-rcnn_r50_fpn_brs_4xb4-1x_coco.py'),
        ('retinanet/retinanet_r50_fpn_1x_coco.py', 'retinanet/retinanet_r50_fpn_brs_4xb4-1x_coco.py'),
        (
            'lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py',
            'lvis/mask-rcnn_r50_fpn_brs_4xb4-sample1e-3-ms-1x_lvis-v1.py',
        ),
        ('atss/atss_r50_fpn_1x_coco.py', 'atss/atss_r50_fpn_brs_4xb4-1x_coco.py'),
        ('paa/paa_r50_fpn_1x_coco.py', 'paa/paa_r50_fpn_brs_4xb4-1x_coco.py'),
    ],
)
def test_the_paper_s_rows_come_out_as_they_were_written_by_hand(stock, ours):
    swap = swap_loss(mmdet_config(stock))
    by_hand = without_published_settings(Config.fromfile(ROOT / 'configs' / ours))
    if 'atss' in stock or 'paa' in stock:  # published with other anchors, which a swap leaves alone
        for cfg in (swap.cfg, by_hand):
            cfg.model.bbox_head.pop('anchor_generator')
        assert any('anchor scales' in note for note in swap.notes)
    if 'mask' in stock:
        assert any('DiceLoss' in note for note in swap.notes)
    assert model_of(swap.cfg) == model_of(by_hand)
    assert swap.cfg.optim_wrapper.optimizer.lr == by_hand.optim_wrapper.optimizer.lr


def test_co_detr_becomes_brs_detr():
    swap = swap_loss(Config.fromfile(ROOT / 'configs/co_detr/co-deformable-detr_r50_8xb2-12e_coco.py'))
    by_hand = without_published_settings(Config.fromfile(ROOT / 'configs/brs_detr/brs-detr_r50_8xb2-12e_coco.py'))
    for loss in (swap.cfg.model.roi_heads.bbox_head.loss_bbox, swap.cfg.model.dense_heads.loss_bbox):
        loss.pop('loss_weight')  # it was on decoded boxes and stays; balanced, its weight cancels
    assert model_of(swap.cfg) == model_of(by_hand)
    assert swap.cfg.optim_wrapper.to_dict() == by_hand.optim_wrapper.to_dict()


@pytest.mark.parametrize('loss', LOSSES)
def test_nothing_else_changes_and_every_change_has_a_reason(loss):
    original = mmdet_config('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py')
    before = original.to_dict()
    swap = swap_loss(original, loss)
    assert original.to_dict() == before
    assert all(len(change.reason) > 10 for change in swap.changes)
    # Undoing the changes one by one gives the original back.
    after = swap.cfg.to_dict()
    for change in reversed(swap.changes):
        *path, last = [int(key) if key.isdigit() else key for key in change.path.split('.')]
        part = after
        for key in path:
            part = part[key]
        assert part[last] == change.new
        if change.old is bucketed_losses.mmdet.swap.ABSENT:
            del part[last]
        else:
            part[last] = change.old
    assert after == before
    assert {change.new['type'] for change in swap.changes if change.path.endswith('loss_cls')} == {LOSSES[loss]}
    # AP and DR losses are not self-balanced: their box loss has a weight.
    weights = {change.new.get('loss_weight') for change in swap.changes if change.path.endswith('loss_bbox')}
    assert weights == ({None} if loss in ('brs', 'rs', 'alrp') else {2.0, 10.0})


def test_settings_of_the_user_stay():
    cfg = mmdet_config('retinanet/retinanet_r50_fpn_1x_coco.py')
    cfg.merge_from_dict(
        {
            'custom_imports': dict(imports=['json'], allow_failed_imports=False),
            'optim_wrapper.optimizer.lr': 0.0025,
            'model.bbox_head.num_classes': 7,
            'model.bbox_head.loss_bbox': dict(_delete_=True, type='DIoULoss', loss_weight=3.0),
            'model.bbox_head.init_cfg': dict(type='Normal', layer='Conv2d', std=0.01, bias_prob=0.01),
        }
    )
    swapped = swap_loss(cfg).cfg
    assert swapped.custom_imports == dict(imports=['json', 'bucketed_losses.mmdet'], allow_failed_imports=False)
    assert swapped.optim_wrapper.optimizer.lr == pytest.approx(0.002)
    assert swapped.model.bbox_head.num_classes == 7
    assert swapped.model.bbox_head.loss_bbox == dict(type='DIoULoss', loss_weight=3.0)
    assert swapped.model.bbox_head.init_cfg is None


def test_functions_stay():
    cfg = mmdet_config('retinanet/retinanet_r50_fpn_1x_coco.py')
    assert not any('function' in note for note in swap_loss(cfg).notes)
    cfg.train_dataloader.collate_fn = dict(type=pseudo_collate)
    swap = swap_loss(cfg)
    assert swap.cfg.train_dataloader.collate_fn == dict(type='mmengine.dataset.utils.pseudo_collate')
    assert FUNCTIONS.get(swap.cfg.train_dataloader.collate_fn.type) is pseudo_collate
    assert not any('function' in note for note in swap.notes) and 'pseudo_collate' in swap.cfg.dump()

    def seed(worker_id):
        """No module has it."""

    cfg.train_dataloader.worker_init_fn = dict(type=seed)
    cfg.custom_hooks = [dict(type='HookOfAUser', function=print)]
    swap = swap_loss(cfg)
    assert swap.cfg.train_dataloader.worker_init_fn == dict(type=seed) and swap.cfg.custom_hooks[0].function is print
    words = 'train_dataloader.worker_init_fn.type and custom_hooks.0.function: a function cannot be written to a file; '
    assert any(note.startswith(words) for note in swap.notes)


def test_what_stock_weights_that_are_loaded_become_is_said():
    cfg = mmdet_config('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    assert not any('stock detector' in note for note in swap_loss(cfg).notes)
    expected = (
        'faster.pth; if it is a stock detector: the classifier of model.roi_head.bbox_head starts anew, because it was '
        'a softmax; the classifier of model.rpn_head is loaded, with a prior probability if it has one; boxes are '
        'wrong at first where stds of a coder changed (model.rpn_head.bbox_coder.target_stds)'
    )
    cfg.load_from = 'faster.pth'
    assert f'load_from loads {expected}' in swap_loss(cfg).notes
    cfg.load_from = None
    cfg.model.init_cfg = [dict(type='Normal', layer='Conv2d'), dict(type='Pretrained', checkpoint='faster.pth')]
    assert f'model.init_cfg loads {expected}' in swap_loss(cfg).notes
    cfg = mmdet_config('atss/atss_r50_fpn_1x_coco.py')
    cfg.load_from = 'atss.pth'
    (note,) = [note for note in swap_loss(cfg).notes if 'stock detector' in note]
    assert 'anew' not in note and 'stds' not in note


def test_adamw_keeps_its_learning_rate():
    swap = swap_loss(mmdet_config('swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'))
    assert swap.cfg.optim_wrapper.optimizer.lr == 0.0001
    assert any('AdamW' in note for note in swap.notes)


def test_an_initialisation_without_a_bias_stays():
    cfg = mmdet_config('ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py')
    assert cfg.model.bbox_head.init_cfg == dict(type='Normal', layer='Conv2d', std=0.001)
    assert swap_loss(cfg).cfg.model.bbox_head.init_cfg == cfg.model.bbox_head.init_cfg
    cfg = mmdet_config('retinanet/retinanet_r50_fpn_1x_coco.py')
    override = dict(type='Normal', name='retina_cls', std=0.01, bias_prob=0.01)
    cfg.model.bbox_head.init_cfg = [dict(type='Normal', layer='Conv2d', std=0.01, override=override)]
    assert swap_loss(cfg).cfg.model.bbox_head.init_cfg is None


def test_stage_weights_may_be_a_tuple():
    cfg = mmdet_config('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py')
    cfg.model.roi_head.stage_loss_weights = (1, 0.5, 0.25)
    assert list(swap_loss(cfg).cfg.model.roi_head.stage_loss_weights) == [1, 1, 1]


def test_a_weight_that_is_replaced_is_named():
    cfg = mmdet_config('dino/dino-4scale_r50_8xb2-12e_coco.py')
    swap = swap_loss(cfg)
    (change,) = [change for change in swap.changes if change.path == 'model.bbox_head.loss_cls']
    assert change.new['loss_weight'] == 2 and change.reason.endswith('its weight is 2, as in BRS-DETR, instead of 1')
    assert 'model.bbox_head.sync_cls_avg_factor has no effect, unless you give loss_dn_cls' in swap.notes


def test_alrp_in_a_schedule_of_iterations():
    cfg = Config.fromfile(ROOT / 'configs/bccd/atss_efficientnet-lite0_fpn_focal_1xb8-12e_bccd.py')
    assert not any('renew_interval' in note for note in swap_loss(cfg, 'alrp').notes)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=100)
    assert any('renew_interval' in note for note in swap_loss(cfg, 'alrp').notes)
    assert not any('renew_interval' in note for note in swap_loss(cfg, 'brs').notes)


def test_wrong_input_is_named():
    cfg = mmdet_config('atss/atss_r50_fpn_1x_coco.py')
    with pytest.raises(SwapError, match=r"no loss is called 'bsr'.*did you mean .*'brs'"):
        swap_loss(cfg, 'bsr')
    with pytest.raises(SwapError, match=r"did you mean 'BucketedRSLoss'"):
        swap_loss(cfg, 'BucketRSLoss')
    misspelt = mmdet_config('atss/atss_r50_fpn_1x_coco.py')
    misspelt.model.bbox_head.type = 'ATSHead'
    with pytest.raises(SwapError, match=r"ATSHead, which has no ranking form.*did you mean 'ATSSHead'"):
        swap_loss(misspelt)
    with pytest.raises(SwapError, match='no model'):
        swap_loss(dict(train_cfg=None))
    with pytest.raises(SwapError, match=r'already has a ranking loss: model.bbox_head.type is RankBasedATSSHead'):
        swap_loss(swap_loss(cfg).cfg)


def test_a_loss_that_a_swap_has_no_arguments_for_is_refused():
    cfg = mmdet_config('atss/atss_r50_fpn_1x_coco.py')
    with pytest.raises(
        SwapError, match=r'^PointwiseLoss cannot be built without loss, .*; swap to one of brs, rs, bap'
    ):
        swap_loss(cfg, 'PointwiseLoss')


@pytest.mark.parametrize('lr', ['0.01', None, True])
def test_a_learning_rate_that_is_no_number_is_named(lr):
    cfg = mmdet_config('atss/atss_r50_fpn_1x_coco.py')
    cfg.optim_wrapper.optimizer.lr = lr
    with pytest.raises(SwapError, match=rf'^optim_wrapper\.optimizer\.lr must be a number, got {lr!r}$'):
        swap_loss(cfg)


def run_tool(capsys, *arguments):
    run_verb('swap', *arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize('name', [FASTER, 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'])
def test_tool_writes_a_config_that_inherits(name, tmp_path, capsys):
    out = tmp_path / 'sub/brs.py'
    printed = run_tool(capsys, name, '-o', out, '--print-diff')
    assert 'RankBasedShared2FCBBoxHead' in printed and '+ optim_wrapper.optimizer.lr = 0.012' in printed
    text = out.read_text()
    assert f"_base_ = '{name}'" in text and 'roi_head.type: ranks all' in text
    written = Config.fromfile(out)
    expected = swap_loss(mmdet_config(name.removeprefix('mmdet::'))).cfg
    assert without_scope(written.model.to_dict()) == without_scope(expected.model.to_dict())
    assert without_scope(written.optim_wrapper.to_dict()) == without_scope(expected.optim_wrapper.to_dict())
    assert written.custom_imports == expected.custom_imports


@pytest.mark.parametrize('more', [[], ['--print-diff']])
def test_tool_prints_and_writes_every_note(more, tmp_path, capsys):
    name = 'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    notes = swap_loss(mmdet_config(name)).notes
    assert len(notes) > 1
    out = tmp_path / 'brs.py'
    printed = run_tool(capsys, f'mmdet::{name}', '-o', out, *more)
    docstring = out.read_text().split('"""')[1]
    for note in notes:
        assert printed.count(f'note: {note}\n') == 1 and docstring.count(f'\nnote: {note}.\n') == 1
    assert ('+ model.type' in printed) == bool(more)


def lazy_config(file):
    """A RetinaNet as a config of MMEngine's lazy kind."""
    stock = mmdet_config('retinanet/retinanet_r50_fpn_1x_coco.py')
    text = Config(dict(model=stock.model, optim_wrapper=stock.optim_wrapper)).pretty_text
    for name in ('RetinaNet', 'RetinaHead', 'FPN', 'ResNet', 'FocalLoss', 'L1Loss'):
        text = text.replace(f"type='{name}'", f'type={name}')
    file.write_text(f'from mmdet.models import FPN, FocalLoss, L1Loss, ResNet, RetinaHead, RetinaNet\n{text}')
    return file


def inheriting(file, base, text=''):
    """A lazy config that inherits another one."""
    file.write_text(f'from mmengine.config import read_base\n\nwith read_base():\n    from {base} import *\n{text}')
    return file


def test_tool_on_a_file_and_a_lazy_config(tmp_path, capsys, monkeypatch):
    own = tmp_path / 'configs/own.py'
    own.parent.mkdir()
    own.write_text(f"_base_ = '{ATSS}'\nmodel = dict(bbox_head=dict(num_classes=5))\n")
    out = tmp_path / 'other/own_rs.py'
    run_tool(capsys, own, '--loss', 'rs', '-o', out)
    assert "_base_ = '../configs/own.py'" in out.read_text()
    head = Config.fromfile(out).model.bbox_head
    assert head.num_classes == 5 and head.loss_cls == dict(type='RSLoss')

    lazy = lazy_config(tmp_path / 'lazy_config.py')
    assert tool.read_editable_config(lazy)[1] is False
    out = tmp_path / 'lazy.py'
    run_tool(capsys, lazy, '-o', out)
    assert '_base_ =' not in out.read_text()
    written = Config.fromfile(out)
    assert written.model.bbox_head.type == 'mmdet.RankBasedRetinaHead'
    assert written.optim_wrapper.optimizer.lr == 0.008
    assert swap_survey.train_one_step(written)


def test_tool_names_wrong_files(tmp_path, capsys):
    cases = [
        (['mmdet::atss/atss_r50_fpn_1x_cocoa.py'], r"no file .*did you mean 'atss_r50_fpn_1x_coco.py'"),
        (['nosuchpackage::a.py'], 'nosuchpackage is not installed'),
        ([str(tmp_path / 'a.txt')], r'must end in \.py'),
        ([ATSS, '--loss', 'focal'], "no loss is called 'focal'"),
        ([ATSS, '-o', str(tmp_path / 'a.txt')], r'must end in \.py'),
        (['mmdet::reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py'], 'BaseReID, which has no ranking form'),
    ]
    for arguments, words in cases:
        with pytest.raises(UserError, match=words):
            run_verb('swap', *arguments)
    (tmp_path / 'a.py').write_text('precious')
    with pytest.raises(UserError, match='exists already'):
        run_verb('swap', ATSS, '-o', tmp_path / 'a.py')
    assert (tmp_path / 'a.py').read_text() == 'precious'
    run_tool(capsys, ATSS, '--out', tmp_path / 'a.py', '--force')
    assert 'RankBasedATSSHead' in (tmp_path / 'a.py').read_text()


@pytest.mark.stack
def test_modules_of_a_config_are_imported_before_it_is_edited(tmp_path, monkeypatch):
    """They may register heads with a recipe. One that is not installed is no obstacle."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'module_of_a_user.py').write_text('')
    monkeypatch.delitem(sys.modules, 'module_of_a_user', raising=False)
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['module_of_a_user', 'no_such_module'])\n")
    with pytest.warns(UserWarning, match='no_such_module failed to import and is ignored'):
        cfg, inherits = read_editable_config(config)
    assert inherits and 'module_of_a_user' in sys.modules
    assert cfg.custom_imports.imports == ['module_of_a_user', 'no_such_module']
    config.write_text('custom_imports = dict(imports=3)\n')
    with pytest.raises(UserError, match=r'config\.py: custom_imports: TypeError: custom_imports must be a list'):
        read_editable_config(config)


def test_one_line_in_a_config(tmp_path):
    file = tmp_path / 'own.py'
    line = "__import__('bucketed_losses').swap_here(globals(), 'brs')\n"
    file.write_text(f"_base_ = '{FASTER}'\nmodel = dict(roi_head=dict(bbox_head=dict(num_classes=5)))\n{line}")
    cfg = Config.fromfile(file)
    expected = mmdet_config('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    expected.model.roi_head.bbox_head.num_classes = 5
    expected = swap_loss(expected).cfg
    assert without_scope(cfg.to_dict()) == without_scope(expected.to_dict())
    # It inherits and is overridden as any config does.
    (tmp_path / 'child.py').write_text("_base_ = './own.py'\nmodel = dict(test_cfg=dict(rcnn=dict(score_thr=0.1)))\n")
    child = Config.fromfile(tmp_path / 'child.py')
    assert child.model.test_cfg.rcnn.score_thr == 0.1
    assert child.model.roi_head.type == 'RankBasedRoIHead'
    # And without bases.
    (tmp_path / 'whole.py').write_text(mmdet_config('atss/atss_r50_fpn_1x_coco.py').pretty_text + line)
    assert Config.fromfile(tmp_path / 'whole.py').model.bbox_head.type == 'RankBasedATSSHead'


def test_tuples_are_edited_as_lists_are():
    cfg = mmdet_config('dab_detr/dab-detr_r50_8xb2-50e_coco.py')
    cfg.model.train_cfg.assigner.match_costs = tuple(cfg.model.train_cfg.assigner.match_costs)
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=(cfg.train_dataloader.dataset,))
    swapped = swap_loss(cfg).cfg
    cost, *_ = swapped.model.train_cfg.assigner.match_costs
    assert (cost.type, cost.weight) == ('FocalLossCost', 4.0)
    cfg = mmdet_config('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    cfg.custom_imports = dict(imports=None)
    cfg.train_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=(dict(type='LVISV1Dataset'),)))
    swapped = swap_loss(cfg).cfg
    assert swapped.custom_imports.imports == ['bucketed_losses.mmdet']
    assert swapped.model.test_cfg.rcnn.score_thr == 0.60


def test_parts_of_the_config_keep_their_scopes():
    cfg = mmdet_config('mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py')
    cfg.default_scope = 'mmengine'
    cfg.model.type, cfg.model._scope_ = 'mmdet.MaskRCNN', 'mmdet'
    cfg.model.roi_head.bbox_roi_extractor.type = 'mmdet.SingleRoIExtractor'
    assert swap_loss(cfg).cfg.model.roi_head.mask_roi_extractor == cfg.model.roi_head.bbox_roi_extractor


def test_reasons_say_what_is_true():
    def reasons(name):
        return {change.path: change.reason for change in swap_loss(mmdet_config(name)).changes}

    masks = reasons('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    assert masks['model.roi_head.mask_head.type'] == 'weights the loss of each mask by the score of its box'
    assert masks['model.roi_head.bbox_head.loss_cls'].endswith('it was a softmax')
    solo = reasons('solo/solo_r50_fpn_1x_coco.py')
    assert solo['model.mask_head.type'] == 'ranks all places of a batch, labelled by the IoU of their masks'
    centres = reasons('centernet/centernet-update_r50-caffe_fpn_ms-1x_coco.py')
    assert 'softmax' not in centres['model.bbox_head.loss_cls']
    notes = swap_loss(mmdet_config('yolo/yolov3_d53_8xb8-320-273e_coco.py')).notes
    assert any('conf_thr of test_cfg has no effect' in note for note in notes)


@pytest.fixture
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ('name', 'loss'),
    [
        ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'ap'),
        ('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', 'bap'),
        ('gfl/gfl_r50_fpn_1x_coco.py', 'rs'),
        ('retinanet/retinanet_r50_fpn_1x_coco.py', 'dr'),
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'alrp'),
        ('mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py', 'brs'),
        ('faster_rcnn/faster-rcnn_r50_fpn_fcos-rpn_1x_coco.py', 'brs'),
        ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 'brs'),
        ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'brs'),
        ('vfnet/vfnet_r50_fpn_1x_coco.py', 'brs'),
        ('deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py', 'rs'),
        ('queryinst/queryinst_r50_fpn_1x_coco.py', 'brs'),
        ('tood/tood_r50_fpn_1x_coco.py', 'brs'),
        ('ddod/ddod_r50_fpn_1x_coco.py', 'bap'),
        ('yolof/yolof_r50-c5_8xb8-1x_coco.py', 'rs'),
        ('fsaf/fsaf_r50_fpn_1x_coco.py', 'ap'),
        ('foveabox/fovea_r50_fpn_gn-head-align_4xb4-2x_coco.py', 'brs'),
        ('reppoints/reppoints-bbox_r50_fpn-gn_head-gn-grid_1x_coco.py', 'brs'),
        ('yolox/yolox_tiny_8xb8-300e_coco.py', 'brs'),
        ('ld/ld_r18-gflv1-r101_fpn_1x_coco.py', 'brs'),
        ('lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py', 'brs'),
        ('nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco.py', 'ap'),
        ('centernet/centernet-update_r18_fpn_8xb8-amp-lsj-200e_coco.py', 'brs'),
        ('ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py', 'brs'),
        ('solo/solo_r50_fpn_1x_coco.py', 'brs'),
        ('solo/decoupled-solo-light_r50_fpn_3x_coco.py', 'ap'),
        ('solov2/solov2-light_r18_fpn_ms-3x_coco.py', 'brs'),
        ('mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py', 'brs'),
        ('yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py', 'brs'),
    ],
)
def test_swapped_configs_train_a_step(name, loss, quiet):
    outcome = swap_survey.outcome(swap_survey.CONFIGS / name, loss)
    assert outcome.what == swap_survey.TRAINED, outcome
    detail = outcome.detail
    assert ('loss_sort' in detail) == ('rs' in loss) and ('loss_rank' in detail) == (loss not in ('alrp', 'dr'))


TABLE = ROOT / 'docs/swapped_configs.csv'


@pytest.mark.slow
def test_every_config_of_mmdetection(tmp_path, quiet):
    """Several hours. The table of the docs is this test's, written by ``python tests/support/swap_survey.py``."""
    with TABLE.open(newline='') as file:
        table = {row['config']: row for row in csv.DictReader(file)}
    files = swap_survey.configs()
    assert {str(file.relative_to(swap_survey.CONFIGS)) for file in files} == set(table)
    different = {}
    for file in files:
        name = str(file.relative_to(swap_survey.CONFIGS))
        row = swap_survey.survey(file)
        for column in ('counted', 'outcome', 'ap_outcome'):
            if table[name][column] and row[column] != table[name][column]:
                different[name] = (table[name], row)
    assert not different


@pytest.mark.parametrize(
    ('before', 'after', 'falls'),
    [((2.0, 1.0), (1.9, 1.1), 'yes'), ((2.0, 1.0), (2.1, 0.9), 'ranking'), ((2.0, 1.0), (2.0, 1.0), 'no')],
)
def test_a_survey_tells_what_falls(before, after, falls):
    sums = [swap_survey.Sums(*values) for values in (before, (0.0, 0.0), after)]
    assert swap_survey.Outcome('ATSS', swap_survey.TRAINED, '', tuple(sums)).falls() == falls
    assert not swap_survey.Outcome('ATSS', swap_survey.TRAINED, '', tuple(sums[:1])).falls()


@pytest.mark.parametrize(
    ('results', 'falls'),
    [
        ({(3, 0.1): 'yes'}, 'yes'),
        ({(3, 0.1): 'no', (10, 1.0): 'ranking'}, 'later'),
        ({(3, 0.1): 'no', (10, 1.0): 'diverges'}, 'no'),
        ({(3, 0.1): 'diverges', (3, 0.001): 'yes'}, 'yes'),
        ({(3, 0.1): 'diverges', (3, 0.001): 'diverges', (1, 0.1): 'one step'}, 'diverges'),
        ({(3, 0.1): 'diverges', (3, 0.001): 'diverges', (1, 0.1): 'diverges'}, ''),
    ],
)
def test_a_survey_tries_again_what_does_not_fall_or_diverges(results, falls, monkeypatch):
    after = {'yes': (1.0, 1.0), 'ranking': (3.0, 0.5), 'no': (2.0, 1.0), 'one step': ()}
    runs = []

    def outcome(file, loss, steps, warm_up=0.1):
        runs.append((steps, warm_up))
        result = results[steps, warm_up]
        if result == 'diverges':
            return swap_survey.Outcome('ATSS', swap_survey.FAILED, 'FloatingPointError: losses are not finite')
        sums = [swap_survey.Sums(*values) for values in ((2.0, 1.0), after[result]) if values]
        return swap_survey.Outcome('ATSS', swap_survey.TRAINED, 'loss', tuple(sums))

    monkeypatch.setattr(swap_survey, 'outcome', outcome)
    assert swap_survey.trained_and_falls(ROOT, 'brs')[1] == falls
    assert runs == list(results)


def test_the_table_of_outcomes():
    """The page shows the numbers of the CSV, and what is refused says why."""
    rows = swap_survey.read(TABLE)
    assert len(rows) > 700
    assert all(len(row['detail']) > 30 for row in rows if row['outcome'] == swap_survey.REFUSED)
    page = (ROOT / 'docs/swap.md').read_text()
    how = 'python tests/support/swap_survey.py docs/swapped_configs.csv'
    assert swap_survey.table(rows) in page, f'{how} --table'
    assert swap_survey.table_of_falls(rows) in page, f'{how} --table'
    assert swap_survey.summary(rows) in page.replace('\n', ' '), f'{how} --table'
    assert swap_survey.left_out(rows) in page, f'{how} --left-out'


def test_nine_in_ten_configs_train_and_their_losses_fall():
    counted = [row for row in swap_survey.read(TABLE) if row['counted'] == swap_survey.COUNTED]
    trained = [row for row in counted if row['outcome'] == swap_survey.TRAINED]
    assert len(trained) >= 0.9 * len(counted)
    for row in trained:
        assert row['ap_outcome'] == swap_survey.TRAINED, row
        for falls in ('falls', 'ap_falls'):
            assert row[falls] in ('yes', 'ranking', 'later', 'diverges'), row


@pytest.mark.parametrize(
    ('name', 'why'),
    [
        ('common/lsj-100e_coco-detection.py', 'no: parts that other configs inherit'),
        ('cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py', 'no: heat maps of keypoints'),
        ('centernet/centernet_r18_8xb16-crop512-140e_coco.py', 'no: heat maps of keypoints'),
        ('centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco.py', swap_survey.COUNTED),
        ('reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py', 'no: re-identification'),
        ('glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py', 'apart: conditioned on text'),
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', swap_survey.COUNTED),
        ('mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', swap_survey.COUNTED),
    ],
)
def test_configs_without_a_class_score_are_not_counted(name, why):
    assert swap_survey.why_not_counted(swap_survey.CONFIGS / name) == why


def test_tool_does_not_replace_the_config_or_one_that_it_inherits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own, child, link = tmp_path / 'own.py', tmp_path / 'sub/child.py', tmp_path / 'link.py'
    own.write_text(f"_base_ = '{ATSS}'\nmodel = dict(bbox_head=dict(num_classes=5))\n")
    child.parent.mkdir()
    child.write_text("_base_ = '../own.py'\n")
    link.symlink_to(own)
    before = own.read_text()
    for config, out in (('own.py', 'own.py'), ('own.py', link), (own, 'sub/../own.py'), (child, 'own.py')):
        with pytest.raises(UserError, match=rf'--out {out} is the config itself or one that it inherits'):
            run_verb('swap', config, '--out', out, '--force')
    assert own.read_text() == before
    run_verb('swap', own, '--out', child, '--force')
    assert "_base_ = '../own.py'" in child.read_text()


def test_tool_does_not_replace_the_base_of_a_lazy_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'sub').mkdir()
    base = lazy_config(tmp_path / 'base.py')
    middle = inheriting(tmp_path / 'sub/middle.py', '..base')
    child = inheriting(tmp_path / 'child.py', '.sub.middle', 'model.bbox_head.num_classes = 5\n')
    before = [file.read_text() for file in (base, middle, child)]
    for config, out in ((child, 'base.py'), ('child.py', middle), ('sub/middle.py', base), (child, child)):
        with pytest.raises(UserError, match=rf'--out {out} is the config itself or one that it inherits'):
            run_verb('swap', config, '--out', out, '--force')
    assert [file.read_text() for file in (base, middle, child)] == before
    run_verb('swap', middle, '--out', child, '--force')
    assert 'RankBasedRetinaHead' in child.read_text()


def test_files_of_a_lazy_config_in_a_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    base = tmp_path / 'package_with_configs/configs/base.py'
    base.parent.mkdir(parents=True)
    (tmp_path / 'package_with_configs/__init__.py').touch()
    lazy_config(base)
    config = inheriting(tmp_path / 'own.py', 'package_with_configs.configs.base')
    assert lazy_config_files(config) == [config, base]
    with pytest.raises(UserError, match=r'base\.py is the config itself or one that it inherits'):
        run_verb('swap', config, '--out', base, '--force')


def test_functions_of_a_lazy_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lazy_config(tmp_path / 'base.py')
    function = 'def twice(x):\n    return 2 * x\n\n\n'
    child = inheriting(tmp_path / 'child.py', '.base', f'\n\n{function}model.bbox_head.num_classes = twice(2)\n')
    run_verb('swap', child, '--out', 'brs.py')
    assert Config.fromfile('brs.py').model.bbox_head.num_classes == 4 and 'twice' not in Path('brs.py').read_text()
    # One that is imported has a name, and one that is a setting has none.
    child.write_text(
        'from mmengine.dataset import pseudo_collate\n' + child.read_text() + '\ntrain_dataloader = '
        'dict(collate_fn=dict(type=pseudo_collate), worker_init_fn=None)\n'
    )
    cfg, _ = read_editable_config(child)
    assert cfg.train_dataloader.collate_fn.type == 'mmengine.dataset.pseudo_collate'
    child.write_text(child.read_text().replace('worker_init_fn=None', 'worker_init_fn=dict(type=twice)'))
    with pytest.raises(UserError, match=r'child\.py: train_dataloader\.worker_init_fn\.type is a function of a lazy'):
        run_verb('swap', child)
