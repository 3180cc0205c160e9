"""One training step of each kind of detector with mixed precision, on random images; weights are random too.

python tools/gpu/family_steps.py --out FAMILIES.csv [--families NAME ...] [--size 320] [--cpu]

torchrun starts it on several GPUs, which then train one model by NCCL (on CPU processes by gloo). On a GPU, the layers
run in float16 with dynamic loss scaling, on a CPU in bfloat16, as with ``tools/train.py --amp``. Each row of the CSV
has the loss and the time of the second of two steps, or a note with the error. The exit code is 1 if there is a note.
Needs MMDetection.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'benchmarks'))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size, init_dist
from mmengine.hub import get_config
from mmengine.model import BaseModel, MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from tables import write_csv

from bucketed_losses.mmdet import swap_loss
from bucketed_losses.mmdet.engine.cpu_processes import launch_on_cpu

ROOT = Path(__file__).resolve().parents[2]


def ours(path: str) -> Callable[[], Config]:
    """A config of this project."""
    return lambda: Config.fromfile(ROOT / 'configs' / path)


def swapped(name: str) -> Callable[[], Config]:
    """A config of MMDetection, with Bucketed RS Loss."""
    return lambda: swap_loss(get_config(name)).cfg


FAMILIES: dict[str, Callable[[], Config]] = {
    'ATSS': ours('atss/atss_r50_fpn_brs_4xb4-1x_coco.py'),
    'RetinaNet': ours('retinanet/retinanet_r50_fpn_brs_4xb4-1x_coco.py'),
    'PAA': ours('paa/paa_r50_fpn_brs_4xb4-1x_coco.py'),
    'Faster R-CNN': ours('faster_rcnn/faster-rcnn_r50_fpn_brs_4xb4-1x_coco.py'),
    'Cascade R-CNN': ours('cascade_rcnn/cascade-rcnn_r50_fpn_brs_4xb4-1x_coco.py'),
    'Mask R-CNN': ours('mask_rcnn/mask-rcnn_r50_fpn_brs_4xb4-1x_coco.py'),
    'BRS-DETR': ours('brs_detr/brs-detr_r50_8xb2-12e_coco.py'),
    'FCOS': swapped('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'),
    'GFL': swapped('mmdet::gfl/gfl_r50_fpn_1x_coco.py'),
    'VFNet': swapped('mmdet::vfnet/vfnet_r50_fpn_1x_coco.py'),
    'RTMDet': swapped('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'),
}


def build(cfg: Config, on_gpu: bool) -> tuple[BaseModel | MMDistributedDataParallel, Any]:
    """The model on the device, with random weights, and its optimizer for mixed precision; on all processes."""
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()  # no init_weights: nothing is downloaded
    if on_gpu:
        model = model.cuda()
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16')
    else:
        model = revert_sync_batchnorm(model)  # RTMDet's batch norm needs a GPU
        cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    if get_world_size() > 1:
        devices = [torch.cuda.current_device()] if on_gpu else None
        model = MMDistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
    return model, wrapper


def step(cfg: Config, size: int, on_gpu: bool) -> dict[str, Any]:
    """Loss, milliseconds and peak memory of the second of two steps.

    Raises:
        ValueError: A loss or a parameter is not finite.
    """
    model, wrapper = build(cfg, on_gpu)
    num_classes = max(getattr(module, 'num_classes', 1) for module in model.modules())
    with_mask = any(name.endswith('mask_head') for name, _ in model.named_modules())
    num_items = [3 + get_rank(), 2]
    batch = demo_mm_inputs(2, [[3, size, size]] * 2, num_items=num_items, num_classes=num_classes, with_mask=with_mask)
    for _ in range(2):
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        logs = model.train_step(batch, wrapper)
        if on_gpu:
            torch.cuda.synchronize()
    spent = time.perf_counter() - start
    bad = [name for name, value in logs.items() if not torch.isfinite(value).all()]
    bad += [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f'not finite after the step: {", ".join(bad[:5])}')
    peak = round(torch.cuda.max_memory_allocated() / 1e6) if on_gpu else ''
    return dict(loss=round(float(logs['loss']), 4), milliseconds=round(1000 * spent, 1), peak_megabytes=peak)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='CSV to write')
    parser.add_argument('--families', nargs='+', choices=FAMILIES, default=list(FAMILIES), metavar='NAME')
    parser.add_argument('--size', type=int, default=320, help='width and height of the images in pixels')
    parser.add_argument('--cpu', action='store_true', help='use no GPU')
    args = parser.parse_args(argv)
    on_gpu = not args.cpu
    if 'RANK' in os.environ:  # started by torchrun
        if on_gpu:
            init_dist('pytorch', backend='nccl')
        else:
            launch_on_cpu(Config(dict(launcher='pytorch')))
    rows = []
    for name in args.families:
        row = dict(
            detector=name, processes=get_world_size(), precision='float16' if on_gpu else 'bfloat16',
            loss='', milliseconds='', peak_megabytes='', note='',
        )  # fmt: skip
        try:
            row |= step(FAMILIES[name](), args.size, on_gpu)
        except Exception as error:  # noqa: BLE001  (the other detectors are still tried)
            row |= dict(note=f'{type(error).__name__}: {error}'.splitlines()[0][:200])
        rows.append(row)
        if get_rank() == 0:
            write_csv(args.out, rows)
            print(*row.values(), flush=True)
    return int(any(row['note'] for row in rows))


if __name__ == '__main__':
    sys.exit(main())
