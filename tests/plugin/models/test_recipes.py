"""Recipes of ranking heads: complete, matched by class, and the only place that knows a head."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')

import swap_survey
from mmdet.models.dense_heads import ATSSHead, RetinaHead
from mmdet.models.losses import GIoULoss, L1Loss
from mmdet.models.task_modules.samplers import PseudoSampler
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope, Registry
from torch import nn

import bucketed_losses.mmdet
from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.models.dense_heads import RankBasedRetinaHead
from bucketed_losses.mmdet.models.losses import APLoss, BucketedRSLoss, RSLoss, takes_decoded_boxes
from bucketed_losses.mmdet.models.recipes import (
    Inner,
    Part,
    Role,
    Setting,
    ranking_head,
    recipe_of,
    recipes,
    registered_class,
)
from bucketed_losses.mmdet.swap import SwapError, swap_loss

PACKAGE = Path(bucketed_losses.__file__).parent
RETINA = 'retinanet/retinanet_r50_fpn_1x_coco.py'
FASTER = 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
CO_DETR = PACKAGE.parent / 'configs/co_detr/co-deformable-detr_r50_8xb2-12e_coco.py'


def mmdet_config(name):
    return Config.fromfile(swap_survey.CONFIGS / name)


def retina(kind='RetinaHead', **settings):
    cfg = mmdet_config(RETINA)
    cfg.model.bbox_head.type = kind
    cfg.merge_from_dict(settings)
    return cfg


@pytest.fixture
def registered():
    """Registers classes under a name, and puts the registry back in order."""
    before = dict(MODELS.module_dict)

    def register(cls, name=None):
        MODELS.register_module(name=name, module=cls, force=True)
        return cls

    yield register
    MODELS.module_dict.clear()
    MODELS.module_dict.update(before)


@pytest.fixture
def own_scope():
    """A registry of another package's models."""
    yield Registry('models of a package', parent=ROOT_MODELS, scope='own')
    ROOT_MODELS.children.pop('own')


def a_part_where_everything_has_to_change(head):
    """The config of a head, as a part for rules to read."""
    train_cfg = dict(
        sampler=dict(type='RandomSampler', num=256),
        allowed_border=0,
        assigner=dict(match_costs=[dict(type='FocalLossCost', weight=2.0)]),
    )
    config = dict(
        type=head.__name__,
        loss_cls=dict(type='CrossEntropyLoss'),
        loss_bbox=dict(type='L1Loss'),
        loss_bbox_refine=dict(type='L1Loss'),
        loss_bbox_init=dict(type='SmoothL1Loss'),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[1.0] * 4),
        reg_decoded_bbox=False,
        init_cfg=dict(type='Normal', bias=0.5),
        stage_loss_weights=[1, 0.5],
        bbox_head=[{}, {}],
        stages=[{}, dict(with_cls=False)],
        mask_head=[{}, {}],
        bbox_roi_extractor={},
    )
    return Part('head', config, train_cfg, dict(score_thr=0.05), BucketedRSLoss, 'BucketedRSLoss', None, (), 'mmdet')


@pytest.mark.parametrize('stock', recipes(), ids=lambda stock: stock.__name__)
def test_rules_change_what_they_declare_and_say_why(stock):
    part = a_part_where_everything_has_to_change(stock)
    for rule in recipe_of(stock).rules:
        changed = set()
        for step in rule.apply(part):
            if isinstance(step, Inner):
                changed.add(step.where[0])
            elif isinstance(step, Setting):
                assert len(step.reason) > 10
                keys = [key for key in step.where if isinstance(key, str)]
                path = '.'.join(keys if step.of == 'head' else [step.of, *keys])
                changed |= {change for change in rule.changes if f'{path}.'.startswith(f'{change}.')}
                assert any(f'{path}.'.startswith(f'{change}.') for change in rule.changes), (path, rule.changes)
        assert changed == set(rule.changes)


def test_every_ranking_head_has_a_recipe():
    ranking = {name for name in bucketed_losses.mmdet.models.__all__ if name.startswith('RankBased')}
    assert ranking == {recipe.head.__name__ for recipe in recipes().values()}
    for recipe in recipes().values():
        assert MODELS.get(recipe.head.__name__) is recipe.head


def test_nothing_but_its_file_knows_a_head_by_name():
    """The swap, the pairing check and the shared rules know no stock head; VFNet is in a single file of the package."""
    names = {stock.__name__ for stock in recipes()} | {recipe.head.__name__ for recipe in recipes().values()}
    names -= {'BBoxHead'}  # also the base class of all box heads of MMDetection, which the pairing check asks for
    models = PACKAGE / 'mmdet/models'
    for file in (
        *(PACKAGE / 'mmdet/swap').glob('*.py'),
        models / 'pairing.py',
        models / 'recipes.py',
        models / 'rules.py',
    ):
        code = re.sub(r'""".*?"""', '', file.read_text(), flags=re.DOTALL)
        assert not {name for name in names if re.search(rf'\b{name}\b', code)}, file
    knowing = [file.name for file in PACKAGE.rglob('*.py') if 'VFNet' in file.read_text()]
    assert knowing == ['rank_based_vfnet_head.py']


def test_a_stock_head_has_one_recipe():
    class OwnHead(nn.Module):
        """A second ranking form of RetinaNet's head."""

    with pytest.raises(ValueError, match='OwnHead: RetinaHead is already replaced by RankBasedRetinaHead'):
        ranking_head(RetinaHead, role=Role.DENSE, rules=())(OwnHead)


def test_a_user_s_head_brings_its_recipe(registered, monkeypatch):
    from bucketed_losses.mmdet.models import recipes as module
    from bucketed_losses.mmdet.models.rules import ANCHOR_HEAD

    monkeypatch.setattr(module, '_RECIPES', dict(module._RECIPES))

    class OwnHead(ATSSHead):
        """A stock head of a user."""

    class RankBasedOwnHead(RankBasedRetinaHead):
        """Its ranking form."""

    registered(OwnHead)
    ranking_head(OwnHead, role=Role.DENSE, rules=ANCHOR_HEAD)(registered(RankBasedOwnHead))
    swapped = swap_loss(retina('OwnHead')).cfg.model.bbox_head
    assert swapped.type == 'RankBasedOwnHead' and swapped.loss_cls.type == 'BucketedRSLoss'
    with pytest.raises(ValueError, match=r"OwnHead cannot train RSLoss.*use type='RankBasedOwnHead'"):
        OwnHead(3, 8, loss_cls=dict(type='RSLoss', use_sigmoid=True))


@pytest.mark.parametrize(
    'kind', ['mmdet.RetinaHead', 'mmdet.models.dense_heads.retina_head.RetinaHead', 'mmdet.models.RetinaHead']
)
def test_a_stock_head_is_known_by_scope_and_module(kind):
    assert registered_class(kind) is RetinaHead
    expected = swap_loss(retina())
    swap = swap_loss(retina(kind))
    assert swap.cfg.model.to_dict() == expected.cfg.model.to_dict()
    assert [change.path for change in swap.changes] == [change.path for change in expected.changes]


def test_a_stock_head_is_known_by_its_class():
    model = mmdet_config(RETINA).model.to_dict()
    model['bbox_head']['type'] = RetinaHead
    assert swap_loss(dict(model=model)).cfg.model.bbox_head.type == 'RankBasedRetinaHead'


def own_class_of_the_same_name():
    return type('RetinaHead', (RetinaHead,), {'__module__': 'own.heads'})


def test_another_class_of_the_same_name_is_refused(registered):
    registered(own_class_of_the_same_name(), 'RetinaHead')
    words = (
        r'model.bbox_head is own\.heads\.RetinaHead, another class than mmdet\.models\.dense_heads\.retina_head\.'
        r'RetinaHead.*derive your head from RankBasedRetinaHead'
    )
    with pytest.raises(SwapError, match=words):
        swap_loss(retina())


@pytest.mark.parametrize('kind', ['RetinaHead', 'own.RetinaHead'])
def test_a_class_of_the_same_name_in_another_scope_is_refused(kind, own_scope):
    own_scope.register_module(module=own_class_of_the_same_name())
    with pytest.raises(SwapError, match=r'is own\.heads\.RetinaHead, another class than mmdet\.'):
        swap_loss(retina(kind, default_scope='own'))
    # A part that was inherited from MMDetection's configs is looked up there.
    inherited = retina(default_scope='own', **{'model._scope_': 'mmdet'})
    assert swap_loss(inherited).cfg.model.bbox_head.type == 'mmdet.RankBasedRetinaHead'


def test_a_class_of_the_same_name_that_is_not_known_is_refused():
    with pytest.raises(SwapError, match=r'model.bbox_head is elsewhere\.RetinaHead, another class than'):
        swap_loss(retina('elsewhere.RetinaHead'))


def test_a_config_of_another_scope_names_that_of_mmdetection(own_scope):
    """MMEngine would look for ours among the models of the other package."""
    cfg = swap_loss(retina('mmdet.RetinaHead', default_scope='own')).cfg
    head = cfg.model.bbox_head
    assert head.loss_cls.type == 'mmdet.BucketedRSLoss' and head.loss_bbox.type == 'mmdet.GIoULoss'
    for part in (head.anchor_generator, head.bbox_coder, cfg.model.train_cfg.assigner):
        part.type = f'mmdet.{part.type}'
    head.update(train_cfg=cfg.model.train_cfg)
    with DefaultScope.overwrite_default_scope('own'):
        built = MODELS.build(head)
    assert type(built) is RankBasedRetinaHead and isinstance(built.sampler, PseudoSampler)


def test_a_head_that_derives_from_a_stock_head_is_told_what_to_derive_from(registered):
    class OwnRetinaHead(RetinaHead):
        """A user's own."""

    registered(OwnRetinaHead)
    with pytest.raises(SwapError, match=r'OwnRetinaHead, .*derives from RetinaHead: derive a head from RankBased'):
        swap_loss(retina('OwnRetinaHead'))


def test_a_head_that_derives_from_a_ranking_head_ranks_already(registered):
    class OwnRankingHead(RankBasedRetinaHead):
        """A user's own."""

    registered(OwnRankingHead)
    with pytest.raises(SwapError, match=r'already has a ranking loss: model.bbox_head.type is OwnRankingHead'):
        swap_loss(retina('OwnRankingHead'))


def test_pairing_leaves_a_class_of_the_same_name_alone():
    """It may do whatever its author wrote; it was refused for its name."""
    own = own_class_of_the_same_name()
    own(3, 8, loss_cls=dict(type='RSLoss', use_sigmoid=True))
    with pytest.raises(ValueError, match=r"RetinaHead cannot train RSLoss.*use type='RankBasedRetinaHead'"):
        RetinaHead(3, 8, loss_cls=dict(type='RSLoss', use_sigmoid=True))


def test_a_loss_says_by_itself_whether_it_balances(registered):
    """Not by the end of its name."""

    class OwnRSLoss(APLoss):
        """Like AP Loss: box losses keep their weight."""

    class Sorted(RSLoss):
        """Like RS Loss: the weight of a box loss cancels."""

    registered(OwnRSLoss)
    registered(Sorted)
    assert swap_loss(retina(), 'OwnRSLoss').cfg.model.bbox_head.loss_bbox == dict(type='GIoULoss', loss_weight=2.0)
    assert swap_loss(retina(), 'Sorted').cfg.model.bbox_head.loss_bbox == dict(type='GIoULoss')
    for name in ('GIoULoss', 'RetinaHead'):
        with pytest.raises(SwapError, match='no loss is called'):
            swap_loss(retina(), name)


def test_box_losses_on_decoded_boxes_are_the_same_for_swap_and_heads(registered):
    class OwnGIoULoss(GIoULoss):
        """Counts as MMDetection's."""

    class OwnL1Loss(L1Loss):
        """Counts as MMDetection's."""

    class OwnBoxLoss(nn.Module):
        """A user's own, on decoded boxes."""

    kept = {'GIoULoss', 'DIoULoss', 'SIoULoss', 'OwnGIoULoss', 'OwnBoxLoss'}
    for own in (OwnGIoULoss, OwnL1Loss, OwnBoxLoss):
        registered(own)
    for name in (*kept, 'L1Loss', 'SmoothL1Loss', 'BalancedL1Loss', 'MSELoss', 'BoundedIoULoss', 'OwnL1Loss', 'GHMR'):
        assert takes_decoded_boxes(MODELS.get(name)) == (name in kept), name
        cfg = retina()
        cfg.model.bbox_head.loss_bbox = dict(type=name)
        swapped = swap_loss(cfg).cfg.model.bbox_head.loss_bbox.type
        assert swapped == (name if name in kept else 'GIoULoss')
        head = dict(type='RankBasedRetinaHead', num_classes=3, in_channels=8, loss_cls=dict(type='RSLoss'))
        if name in kept:
            MODELS.build(dict(head, loss_bbox=dict(type=name)))
        else:
            with pytest.raises(ValueError, match=f'must be a loss on decoded boxes .*, got {name}'):
                MODELS.build(dict(head, loss_bbox=dict(type=name)))


def test_heads_that_only_co_detr_holds_are_named():
    head = mmdet_config('atss/atss_r50_fpn_1x_coco.py').model.bbox_head.to_dict()
    with pytest.raises(SwapError, match='OwnDetector has dense_heads, which only a CoDETR has'):
        swap_loss(dict(model=dict(type='OwnDetector', dense_heads=[head])))
    cfg = Config.fromfile(CO_DETR)
    del cfg.model['bbox_head']
    with pytest.raises(SwapError, match=r'model.bbox_head is missing: a CoDETR cannot be trained without it'):
        swap_loss(cfg)
    with pytest.raises(SwapError, match=r'model.bbox_head has no type'):
        swap_loss(dict(model=dict(type='ATSS', bbox_head=dict(num_classes=3))))
    with pytest.raises(SwapError, match=r'model.rpn_head is a list of heads'):
        swap_loss(dict(model=dict(type='RPN', rpn_head=[head])))


def test_lists_of_auxiliary_heads_are_converted_one_by_one():
    one, several = (Config.fromfile(CO_DETR) for _ in range(2))
    several.model.dense_heads = [copy.deepcopy(one.model.dense_heads) for _ in range(2)]
    several.model.train_cfg.dense = [copy.deepcopy(one.model.train_cfg.dense) for _ in range(2)]
    expected = swap_loss(one).cfg.model.dense_heads
    assert expected.type == 'RankBasedCoATSSHead' and expected.loss_cls.loss_weight == 5.0
    assert swap_loss(several).cfg.model.dense_heads == [expected, expected]


def test_errors_and_old_names():
    assert issubclass(SwapError, UserError)
    swap = swap_loss(retina())
    with pytest.warns(FutureWarning, match=r'read Swap\.overrides'):
        assert swap.delta is swap.overrides
    assert swap.overrides['model']['bbox_head']['type'] == 'RankBasedRetinaHead'


@pytest.mark.parametrize('file', swap_survey.configs('vfnet'), ids=lambda file: file.stem)
def test_vfnet_configs_are_converted(file):
    swap = swap_loss(Config.fromfile(file))
    head = swap.cfg.model.bbox_head
    assert head.type == 'RankBasedVFNetHead' and head.loss_cls == dict(type='BucketedRSLoss')
    assert head.loss_bbox == dict(type='GIoULoss', loss_weight=1.5)
    assert head.loss_bbox_refine == dict(type='GIoULoss', loss_weight=2.0)
    assert 'model.bbox_head.use_vfl stays in the config but has no effect' in swap.notes


def test_the_table_of_heads():
    page = (PACKAGE.parent / 'docs/swap.md').read_text()
    assert swap_survey.heads_table() in page, 'python tests/support/swap_survey.py docs/swapped_configs.csv --heads'


def test_the_checks_of_modules_leave_torch_compile_alone():
    """PyTorch calls them for every module, among them one that has no attributes yet."""
    module = torch.nn.Linear(2, 2)
    assert torch.compile(module, backend='eager')._orig_mod is module
    loss = MODELS.build(dict(type='BucketedRSLoss'))
    assert torch.compile(loss, backend='eager')._orig_mod is loss


def test_the_checks_of_modules_leave_modules_alone_that_are_not_complete():
    class Wrapper(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self._modules['inner'], name) if name != '_modules' else super().__getattr__(name)

    loss = MODELS.build(dict(type='BucketedRSLoss'))
    assert Wrapper(loss).scope == 'batch'
