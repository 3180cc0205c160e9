"""One line in a config: ``swap_here`` in the configs that users have."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip('mmdet')

from mmengine.config import Config

from bucketed_losses.mmdet.swap import SwapError

pytestmark = pytest.mark.stack

RETINA = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
LINE = "__import__('bucketed_losses').swap_here(globals(), 'brs')\n"

HEAD_OF_A_USER = """
from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import MODELS

from bucketed_losses.mmdet.models.dense_heads import RankBasedRetinaHead
from bucketed_losses.mmdet.models.recipes import Role, ranking_head
from bucketed_losses.mmdet.models.rules import ANCHOR_HEAD


@MODELS.register_module()
class HeadOfAUser(RetinaHead):
    pass


@ranking_head(HeadOfAUser, role=Role.DENSE, rules=ANCHOR_HEAD)
@MODELS.register_module()
class RankBasedHeadOfAUser(RankBasedRetinaHead):
    pass
"""


def converted(tmp_path, text):
    (tmp_path / 'own.py').write_text(f"_base_ = '{RETINA}'\n{text}{LINE}")
    return Config.fromfile(tmp_path / 'own.py', import_custom_modules=False)


def test_a_config_with_an_import_of_the_standard_library(tmp_path):
    cfg = converted(tmp_path, "import os\nwork_dir = os.path.join('a', 'b')\n")
    assert cfg.model.bbox_head.type == 'RankBasedRetinaHead' and cfg.work_dir == 'a/b'
    assert 'os' not in cfg


def test_a_function_of_the_config_is_no_setting(tmp_path):
    cfg = converted(tmp_path, "def folder(name):\n    return f'a/{name}'\n\n\nwork_dir = folder('b')\n")
    assert cfg.model.bbox_head.type == 'RankBasedRetinaHead' and cfg.work_dir == 'a/b'
    assert 'folder' not in cfg


def test_custom_modules_are_imported_first(tmp_path, monkeypatch):
    (tmp_path / 'head_of_a_user.py').write_text(HEAD_OF_A_USER)
    monkeypatch.syspath_prepend(tmp_path)
    text = "custom_imports = dict(imports=['head_of_a_user'])\nmodel = dict(bbox_head=dict(type='HeadOfAUser'))\n"
    assert converted(tmp_path, text).model.bbox_head.type == 'RankBasedHeadOfAUser'
    assert 'head_of_a_user' in sys.modules


@pytest.mark.parametrize(
    'text',
    [
        'optim_wrapper = dict(optimizer=dict(lr={{_base_.optim_wrapper.optimizer.lr}}))',
        'model = dict(bbox_head={{_base_.model.bbox_head}})',
        'model = dict(bbox_head=dict(reg_decoded_bbox=True, loss_bbox={{_base_.box_loss}}), test_cfg={{_base_.test}})',
        'train_dataloader = dict(dataset=dict(pipeline=[{{_base_.val_dataloader}}, ({{ _base_.test.nms_pre }},)]))',
    ],
)
def test_values_of_bases_may_be_given_in_braces(tmp_path, text):
    base = f"_base_ = '{RETINA}'\nbox_loss = dict(type='CIoULoss', loss_weight=3.0)\ntest = dict(nms_pre=7)\n"
    (tmp_path / 'base.py').write_text(base)

    def read(name, text):
        (tmp_path / name).write_text(f"_base_ = './base.py'\n{text}\n{LINE}")
        return Config.fromfile(tmp_path / name, import_custom_modules=False)

    cfg = read('braces.py', text)
    assert cfg.to_dict() == read('plain.py', text.replace('{{', '').replace('}}', '')).to_dict()
    head = cfg.model.bbox_head
    assert head.type == 'RankBasedRetinaHead' and cfg.optim_wrapper.optimizer.lr == 0.008
    assert head.loss_bbox.type == ('CIoULoss' if 'box_loss' in text else 'GIoULoss')


def test_a_value_that_the_bases_do_not_have_is_named(tmp_path):
    message = r'model\.bbox_head\.num_classes is {{_base_\.no\.such}}, which the base configs do not have$'
    with pytest.raises(SwapError, match=message):
        converted(tmp_path, 'model = dict(bbox_head=dict(num_classes={{_base_.no.such}}))\n')


def test_other_references_to_bases_are_replaced_as_ever(tmp_path):
    cfg = converted(tmp_path, 'evaluators = {{_base_.val_evaluator}}\n')
    assert cfg.evaluators == cfg.val_evaluator


def test_a_lazy_config_is_refused(tmp_path):
    (tmp_path / 'lazy.py').write_text(f'from mmdet.models import RetinaNet\n\nmodel = dict(type=RetinaNet)\n{LINE}')
    with pytest.raises(SwapError, match='swap_here cannot read a lazy config; convert it with bucketed-losses swap'):
        Config.fromfile(tmp_path / 'lazy.py')
