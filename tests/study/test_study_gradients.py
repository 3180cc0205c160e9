"""How losses share their gradient between positives and negatives."""

from __future__ import annotations

import pytest
import torch
from reference import loop_rs_loss

pytest.importorskip('mmdet')

from command_line import run_verb
from mmdet.registry import MODELS
from studies import MASK

from bucketed_losses.errors import UserError
from bucketed_losses.study.gradient_shares import LOSSES, gradient_shares, load_weights


def test_gradient_shares_are_those_of_loops():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 2, generator=generator)
    targets = torch.where(torch.rand(40, 2, generator=generator) < 0.2, torch.rand(40, 2, generator=generator), 0)
    targets[3] = -1
    shares = gradient_shares(logits, targets)
    assert list(shares) == list(LOSSES)
    flat_logits, flat_targets = logits.flatten().double().tolist(), targets.flatten().double().tolist()
    for name, delta in (('AP', 1.0), ('RS', 0.5)):
        found = loop_rs_loss(flat_logits, flat_targets, delta)
        # The sorting part only moves positives.
        grads = [r + (s if name == 'RS' else 0) for r, s in zip(found.ranking_grad, found.sorting_grad, strict=True)]
        positive = sum(abs(g) for g, t in zip(grads, flat_targets, strict=True) if t > 0)
        assert shares[name] == pytest.approx(positive / sum(map(abs, grads)), rel=1e-4), name
    scores = [1 / (1 + torch.tensor(-x).exp().item()) for x in flat_logits]
    pulled = sum(1 - p for p, t in zip(scores, flat_targets, strict=True) if t > 0)
    pushed = sum(p for p, t in zip(scores, flat_targets, strict=True) if t == 0)
    assert shares['CE'] == pytest.approx(pulled / (pulled + pushed), rel=1e-4)
    for name in ('AP', 'BAP', 'aLRP'):
        assert shares[name] == pytest.approx(0.5, abs=1e-4), 'as much on positives as on negatives'


def test_more_negatives_move_score_based_losses_only():
    generator = torch.Generator().manual_seed(0)
    negatives = torch.randn(5000, generator=generator)
    logits = torch.cat([torch.randn(50, generator=generator), negatives])
    targets = torch.cat([torch.full((50,), 0.7), torch.zeros(5000)])
    few, many = (gradient_shares(logits[:n], targets[:n]) for n in (550, 5050))
    for name in ('CE', 'Focal'):
        assert many[name] < few[name] / 3
    for name in ('AP', 'BAP', 'aLRP'):
        assert many[name] == pytest.approx(few[name], abs=1e-3)


class Head(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc_cls = torch.nn.Linear(2, channels)
        self.loss_cls = MODELS.build(dict(type='aLRPLoss'))  # with a state of its own


def detector_of(rpn, rcnn):
    return torch.nn.ModuleDict({'neck': torch.nn.Linear(1, 2), 'rpn_head': Head(rpn), 'roi_head': Head(rcnn)})


def test_weights_of_another_loss_are_taken_where_they_fit(tmp_path):
    weights = detector_of(1, 4).state_dict()
    weights['rpn_head.centerness.weight'] = torch.ones(1)
    del weights['rpn_head.loss_cls.balance']
    file = str(tmp_path / 'stock.pth')
    torch.save({'state_dict': weights}, file)
    same = detector_of(1, 4)
    assert load_weights(same, file) == []
    assert torch.equal(same['roi_head'].fc_cls.weight, weights['roi_head.fc_cls.weight'])
    ranked = detector_of(1, 3)
    assert load_weights(ranked, file) == ['roi_head'], 'that was a softmax'
    assert torch.equal(ranked['rpn_head'].fc_cls.weight, weights['rpn_head.fc_cls.weight'])
    with pytest.raises(UserError, match=r'rpn_head.fc_cls.weight of shape \(2, 2\) has the shape \(1, 2\) there'):
        load_weights(detector_of(2, 3), file)
    wider = detector_of(1, 4)
    wider['backbone'] = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match=r'backbone.weight of shape \(1, 1\) is not there'):
        load_weights(wider, file)


def test_wrong_arguments_are_named(tmp_path, shapes_root, monkeypatch):
    pytest.importorskip('efficientnet_lite_pytorch')
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    checkpoint = tmp_path / 'weights.pth'
    torch.save({}, checkpoint)
    for arguments, message in (
        (['nowhere.py', checkpoint], 'nowhere.py does not exist'),
        ([MASK, 'nowhere.pth'], 'nowhere.pth does not exist'),
        ([MASK, checkpoint, '--batches', '0'], '--batches must be 1 or more, got 0'),
        ([MASK, checkpoint], 'has no ranking loss; add one with bucketed-losses swap'),
    ):
        with pytest.raises(UserError, match=message):
            run_verb('gradient-shares', *arguments, '--json', tmp_path / 'out.json')
    assert not (tmp_path / 'out.json').exists()
