"""The config of one run of a study."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')

from mmengine.config import Config
from studies import ATSS, FASTER, MASK, ROOT, detector

from bucketed_losses.study.configs import flat, make_config, other_settings_note, stretch, write_config
from bucketed_losses.study.learning_rates import learning_rate, learning_rate_note
from bucketed_losses.study.plan import Refusal, Run

CARDS = ROOT / 'configs/cards/atss_efficientnet-lite0_fpn_focal_1xb8-12e_cards.py'


def config(loss, seed=0, path=ATSS, data=None, options=(), epochs=None, gpus=1):
    return make_config(Run(detector(path), loss, seed, epochs), data, dict(options), gpus)


def settings(cfg):
    return flat(Config.fromstring(cfg.pretty_text, '.py'))


def test_runs_differ_in_loss_head_and_seed_only():
    stock, brs, alrp = settings(config('stock')), settings(config('brs', seed=3)), settings(config('alrp'))
    differing = {key for key in stock.keys() | brs.keys() if stock.get(key) != brs.get(key)}
    assert {key.split('.')[:2] == ['model', 'bbox_head'] for key in differing - {'randomness.seed'}} == {True}
    assert brs['randomness.seed'] == 3 and brs['model.bbox_head.loss_cls.type'] == 'BucketedRSLoss'
    assert {key for key in brs.keys() | alrp.keys() if brs.get(key) != alrp.get(key)} == {
        'randomness.seed',
        'model.bbox_head.loss_cls.type',
    }


def test_hooks_that_a_study_needs_are_there_once():
    for options in ({}, {'custom_hooks': [dict(type='PreemptionHook', interval=5)]}):
        hooks = config('brs', options=options).custom_hooks
        types = [hook['type'] for hook in hooks]
        assert types.count('InvalidLossHook') == types.count('PreemptionHook') == 1
        assert hooks[-1] == dict(
            type='CheckpointHook', interval=1, by_epoch=True, save_optimizer=False, save_param_scheduler=False,
            filename_tmpl='{}.pth',
        )  # fmt: skip


def test_hooks_that_a_config_leaves_out_or_names_by_module(tmp_path):
    """None leaves the default hooks of MMEngine out; a lazy config names classes."""
    path = tmp_path / 'none.py'
    path.write_text(
        f'_base_ = {str(ATSS)!r}\ncustom_hooks = None\nauto_scale_lr = None\n'
        'default_hooks = dict(_delete_=True, checkpoint=None, logger=None, timer=None)\n'
    )
    cfg = config('brs', path=path)
    assert cfg.default_hooks == dict(timer=None, checkpoint=dict(type='CheckpointHook', max_keep_ckpts=2))
    assert [hook['type'] for hook in cfg.custom_hooks] == ['InvalidLossHook', 'PreemptionHook', 'CheckpointHook']
    assert learning_rate_note(detector(str(path)), cfg, gpus=1) is None
    path.write_text(f'_base_ = {str(ATSS)!r}\ndefault_hooks = None\n')
    assert config('brs', path=path).default_hooks.checkpoint.max_keep_ckpts == 2
    hooks = [dict(type=f'bucketed_losses.mmdet.engine.{name}') for name in ('PreemptionHook', 'InvalidLossHook')]
    assert config('brs', options={'custom_hooks': hooks}).custom_hooks[:-1] == hooks


def test_options_reach_every_run():
    cfg = config('rs', options={'train_cfg.max_epochs': 3, 'data_root': '/elsewhere'})
    assert cfg.train_cfg.max_epochs == 3
    assert cfg.train_dataloader.dataset.data_root == '/elsewhere/'


def test_a_stretched_schedule_keeps_its_shape():
    cfg = config('brs', epochs=18)
    assert cfg.train_cfg.max_epochs == 18
    warmup, cosine = cfg.param_scheduler
    assert warmup.end == 50, 'counted in iterations'
    assert cosine.end == 18
    steps = Config(dict(train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=12), param_scheduler=[
        dict(type='MultiStepLR', begin=0, end=12, milestones=[8, 11], by_epoch=True),
    ]))  # fmt: skip
    stretch(steps, 36)
    assert steps.param_scheduler[0].milestones == [24, 33] and steps.param_scheduler[0].end == 36
    linear = Config(dict(train_cfg=dict(max_epochs=10), param_scheduler=dict(
        type='LinearLR', start_factor=1.0, end_factor=0.01, end=10,
    )))  # fmt: skip
    stretch(linear, 20)
    assert linear.param_scheduler.end == 20, 'no warm-up'
    iterations = Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=100), param_scheduler=[
        dict(type='LinearLR', begin=0, end=10, by_epoch=False),
        dict(type='MultiStepLR', begin=0, end=100, milestones=[80], by_epoch=False),
    ]))  # fmt: skip
    stretch(iterations, 200)
    assert iterations.train_cfg.max_iters == 200
    assert [s.end for s in iterations.param_scheduler] == [10, 200]
    assert iterations.param_scheduler[1].milestones == [160]


def data_config(folder, dataset):
    path = folder / 'data.py'
    loader = dict(batch_size=2, dataset=dataset)
    path.write_text(
        f'train_dataloader = {loader!r}\nval_dataloader = {loader!r}\nval_evaluator = dict(type="CocoMetric")\n'
    )
    return path


@pytest.mark.parametrize('path', [ATSS, FASTER, MASK])
def test_other_data_bring_their_classes(path, tmp_path):
    wrapped = dict(type='RepeatDataset', times=2, dataset=dict(type='CocoDataset', metainfo=dict(classes=('a', 'b'))))
    cfg = config('brs', path=path, data=data_config(tmp_path, wrapped))
    assert cfg.train_dataloader.batch_size == 2 and cfg.train_dataloader.dataset.type == 'RepeatDataset'
    numbers = {key: value for key, value in settings(cfg).items() if key.endswith('num_classes') and 'model' in key}
    assert numbers and set(numbers.values()) == {2}
    coco = config('stock', path=path, data=data_config(tmp_path, dict(type='CocoDataset')))
    numbers = {key: value for key, value in settings(coco).items() if key.endswith('num_classes') and 'model' in key}
    assert set(numbers.values()) == {80}, 'those that the data set is registered with'


def test_other_data_bring_their_modules_and_their_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'my_data.py').write_text('')
    dataset = dict(type='CocoDataset', metainfo=dict(classes=('a',)), data_root='/mine/', ann_file='/mine/train.json')
    path = data_config(tmp_path, dataset)
    path.write_text(f"{path.read_text()}data_root = '/mine/'\ncustom_imports = dict(imports=['my_data'])\n")
    stock, brs = (config(loss, data=path, options={'data_root': '/elsewhere'}) for loss in ('stock', 'brs'))
    for cfg in (stock, brs):
        assert cfg.custom_imports.imports == ['bucketed_losses.mmdet', 'my_data']
    moved = stock.train_dataloader.dataset
    assert (moved.data_root, moved.ann_file) == ('/elsewhere/', '/elsewhere/train.json')
    path.write_text('train_dataloader = dict(\n')
    with pytest.raises(Refusal, match=r'--data: .*data\.py: syntax error'):
        config('stock', data=path)


def test_a_budget_of_iterations_logs_validations_by_iteration(tmp_path):
    assert 'log_metric_by_epoch' not in config('brs').default_hooks.logger
    path = tmp_path / 'iterations.py'
    path.write_text(
        f"_base_ = {str(ATSS)!r}\ntrain_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=24)\n"
    )
    cfg = config('brs', path=path)
    assert cfg.default_hooks.logger.log_metric_by_epoch is False and cfg.custom_hooks[-1].interval == 2


def test_data_without_classes_or_loaders_are_named(tmp_path):
    with pytest.raises(Refusal, match=r'data\.py: BaseDetDataset names no classes'):
        config('brs', data=data_config(tmp_path, dict(type='BaseDetDataset')))
    with pytest.raises(Refusal, match='is not a config of a data set: it has no train_dataloader, val_dataloader'):
        empty = tmp_path / 'empty.py'
        empty.write_text('x = 1\n')
        config('brs', data=empty)


def test_configs_of_mmdetection_are_taken_by_name(tmp_path):
    name = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    cfg = make_config(Run(detector(name), 'brs', 0))
    assert cfg.model.bbox_head.loss_cls.type == 'BucketedRSLoss'
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 2, 'of each of many runs'


def test_other_settings_in_the_same_study_are_refused(tmp_path):
    file = tmp_path / 'configs/brs_0.py'
    write_config(config('brs'), file)
    write_config(config('brs'), file)
    with pytest.raises(Refusal, match=r'other settings: train_cfg\.max_epochs was 12 and is 3 now; use another'):
        write_config(config('brs', options={'train_cfg.max_epochs': 3}), file)


def test_seeds_of_a_loss_have_the_same_settings(tmp_path):
    write_config(config('brs'), tmp_path / 'brs_0.py')
    with pytest.raises(Refusal, match=r'brs_0\.py was made with other settings: train_cfg\.max_epochs was 12 and is 3'):
        write_config(config('brs', options={'train_cfg.max_epochs': 3}), tmp_path / 'brs_1.py')
    write_config(config('brs', options={'randomness.seed': 1}), tmp_path / 'brs_1.py')
    write_config(config('brs', options={'train_cfg.max_epochs': 3}), tmp_path / 'brs-in-equal-time_0.py')


def test_the_threshold_of_an_option_is_that_of_all_losses():
    options = {'model.test_cfg.rcnn.score_thr': 0.0}
    name = str(ROOT / 'configs/bccd/faster-rcnn_efficientnet-lite0_fpn_ce_1xb8-12e_bccd.py')
    for loss in ('stock', 'brs'):
        assert make_config(Run(detector(name), loss, 0), options=options).model.test_cfg.rcnn.score_thr == 0
    assert make_config(Run(detector(name), 'brs', 0)).model.test_cfg.rcnn.score_thr == 0.4


def test_a_loss_that_a_detector_cannot_carry_is_refused(tmp_path):
    ranked = ROOT / 'configs/bccd/atss_efficientnet-lite0_fpn_rs_1xb8-12e_bccd.py'
    with pytest.raises(Refusal, match=r'rs_1xb8-12e_bccd\.py cannot be trained with brs: the config already has'):
        config('brs', path=ranked)
    no_head = tmp_path / 'free_anchor.py'
    no_head.write_text(
        "model = dict(type='RetinaNet', bbox_head=dict(type='FreeAnchorRetinaHead', num_classes=3))\n"
        "train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)\n"
    )
    with pytest.raises(Refusal, match=r'cannot be trained with dr: .*FreeAnchorRetinaHead'):
        config('dr', path=no_head)


def test_a_config_that_trains_nothing_is_refused(tmp_path):
    no_model = tmp_path / 'empty.py'
    no_model.write_text('x = 1\n')
    for path, message in (
        ('nowhere.py', 'nowhere.py: there is no file nowhere.py'),
        ('mmdet::atss/atss_r50_fpn_2x_coco.py', r'there is no file .*atss_r50_fpn_1x_coco'),
        ('nothing::atss.py', 'the package nothing is not installed'),
        (no_model, 'has no model'),
    ):
        with pytest.raises(Refusal, match=message):
            config('stock', path=path)
    with pytest.raises(Refusal, match=r'--data: nowhere\.py: there is no file nowhere\.py'):
        config('stock', data=Path('nowhere.py'))


def test_several_gpus_scale_the_learning_rate():
    """BCCD's configs have a learning rate for 8 images, and 8 images per process."""
    one, four = config('brs'), config('brs', gpus=4)
    assert not one.auto_scale_lr.get('enable') and four.auto_scale_lr.enable
    assert learning_rate_note(detector(), one, 1) is None
    assert learning_rate_note(detector(), four, 4) == (
        'ATSS: the learning rate is multiplied by 4: 32 images per iteration instead of the 8 of '
        'auto_scale_lr.base_batch_size'
    )


def test_a_learning_rate_that_is_not_scaled_is_told():
    small = config('brs', options={'train_dataloader.batch_size': 2})
    assert 'is not scaled although there are 2 images per iteration instead of the 8' in learning_rate_note(
        detector(), small, 1
    )
    unknown = config('brs', options={'auto_scale_lr': dict(_delete_=True)}, gpus=2)
    assert 'enable' not in unknown.auto_scale_lr
    note = learning_rate_note(detector(), unknown, 2)
    assert 'not scaled for 2 GPUs, because the config has no auto_scale_lr.base_batch_size' in note
    assert learning_rate_note(detector(), unknown, 1) is None


def test_accumulated_images_count():
    """The configs of the study with small batches: the rate is scaled for 1 image, and that of 8 for 8 accumulated."""
    scaled, accumulated = (
        config('brs', path=ROOT / f'configs/study/cards_atss_batch1{more}.py') for more in ('', '-accumulate8')
    )
    assert 'the learning rate is multiplied by 0.125: 1 images' in learning_rate_note(detector(), scaled, 1)
    assert learning_rate_note(detector(), accumulated, 1) is None
    assert (learning_rate(scaled), learning_rate(accumulated)) == (1e-3 / 8, 1e-3)
    assert learning_rate(scaled, gpus=4) == 1e-3 / 2


def test_other_settings_of_a_loss_given_by_its_config_are_told():
    stock = config('stock', path=CARDS)
    for name, note in (
        ('study/cards_atss_rs-ones', None),
        ('cards/atss_efficientnet-lite0_fpn_mal_1xb8-12e_cards', None),  # has names that only the config uses
        (
            'study/cards_atss_batch4',
            'ATSS X: its config also has other settings outside the model: auto_scale_lr.enable, param_scheduler, '
            'train_dataloader.batch_size',
        ),
    ):
        run = Run(detector(CARDS), 'X', 0, config=str(ROOT / f'configs/{name}.py'))
        assert other_settings_note(run, make_config(run), stock) == note
