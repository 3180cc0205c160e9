"""The measurement of SOLOv2's cells, against loops over cells and pixels."""

from __future__ import annotations

import pytest

pytest.importorskip('mmdet')

import measure_solo_cells as measured
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

CONFIG = 'configs/shapes/solov2_efficientnet-lite0_fpn_brs_1xb8-12e_shapes.py'


def precision_of_ranks(logits, labels):
    """Average precision by a loop over the ranking of each class."""
    classes = []
    for number in range(logits.size(1)):
        hits, precisions = 0, []
        for rank, cell in enumerate(logits[:, number].argsort(descending=True).tolist(), start=1):
            if labels[cell] == number:
                hits += 1
                precisions.append(hits / rank)
        classes.append(sum(precisions) / hits)
    return sum(classes) / len(classes)


def test_average_precision_of_cells():
    torch.manual_seed(0)
    logits, labels = torch.randn(40, 3), torch.randint(0, 4, (40,))
    cells = measured.Cells(logits, labels, torch.empty(0))
    assert cells.average_precision() == pytest.approx(precision_of_ranks(logits, labels), abs=1e-9)


def test_masks_of_cells_and_the_tool(shapes_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.init_cfg = None
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = MODELS.build(cfg.model).eval()
        # The initial masks are empty. Without the prior, they have about half of the pixels.
        torch.nn.init.normal_(detector.mask_head.conv_kernel.weight, std=0.5)
        torch.nn.init.zeros_(detector.mask_head.conv_kernel.bias)
        batch = next(iter(Runner.build_dataloader(cfg.val_dataloader)))
        cells = measured.cells_of(detector, batch)
        with torch.no_grad():
            inputs = detector.data_preprocessor(batch)
            kernels, logits, features = detector.mask_head(detector.extract_feat(inputs['inputs']))
    size = sum(level[0, 0].numel() for level in logits)
    assert cells.logits.shape == (len(inputs['data_samples']) * size, 4) and len(cells.labels) == len(cells.logits)
    expected = []
    for image, sample in enumerate(inputs['data_samples']):
        targets, _, _, assigned = detector.mask_head._get_targets_single(sample.gt_instances, features.shape[-2:])
        for level, level_cells in enumerate(assigned):
            for target, cell in zip(targets[level], level_cells, strict=True):
                weights = kernels[level][image].flatten(1)[:, int(cell)]
                mask = (weights[:, None, None] * features[image]).sum(0) > 0
                expected.append(float((mask & target.bool()).sum()) / float((mask | target.bool()).sum()))
    assert len(expected) > 10 and max(expected) > 0
    assert cells.ious.tolist() == pytest.approx(expected, abs=1e-6)

    cfg.dump(tmp_path / 'config.py')
    torch.save({'state_dict': detector.state_dict()}, tmp_path / 'epoch_1.pth')
    measured.main([str(tmp_path / 'config.py'), str(tmp_path / 'epoch_1.pth')])
    row = capsys.readouterr().out.splitlines()[-1]
    precision, iou, share = (float(cell.strip(' %')) for cell in row.strip('|').split('|'))
    assert iou == pytest.approx(sum(expected) / len(expected), abs=6e-4)
    assert precision == pytest.approx(cells.average_precision(), abs=6e-4)
    assert share == pytest.approx(100 * sum(value > 0.75 for value in expected) / len(expected), abs=0.6)
