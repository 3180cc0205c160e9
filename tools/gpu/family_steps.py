"""Training steps of each kind of detector with its own loss and with BRS Loss, with mixed precision, on random images.

python tools/gpu/family_steps.py --out FAMILIES.csv [--families NAME ...] [--size HEIGHT WIDTH] [--steps 2] [--cpu]

torchrun starts it on several GPUs, which then train one model by NCCL (on CPU processes by gloo). On a GPU, the layers
run in float16 with dynamic loss scaling, on a CPU in bfloat16, as with ``tools/train.py --amp``. On a CPU, only BRS
Loss is tried, because MMCV's RoIAlign and deformable convolution do not support bfloat16 there. Weights are random, and
the data of a step is the same each time: two images of random pixels with a few random boxes. Each row of the CSV has
the last loss, the median time of the steps after the first and their peak memory, or a note with the error. The exit
code is 1 if a step with BRS Loss failed. Needs MMDetection.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
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
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from tables import write_csv

from bucketed_losses.mmdet import swap_loss
from bucketed_losses.mmdet.engine.config import enter_scope
from bucketed_losses.mmdet.engine.cpu_processes import launch_on_cpu

ROOT = Path(__file__).resolve().parents[2]


def ours(path: str) -> Callable[[], Config]:
    """A config of this project."""
    return lambda: Config.fromfile(ROOT / 'configs' / path)


def stock(name: str) -> Callable[[], Config]:
    """A config of MMDetection."""
    return lambda: get_config(f'mmdet::{name}')


def swapped(name: str) -> Callable[[], Config]:
    """The same with BRS Loss."""
    return lambda: swap_loss(get_config(f'mmdet::{name}')).cfg


def both(name: str) -> dict[str, Callable[[], Config]]:
    """A config of MMDetection with its own loss and with BRS Loss."""
    return {'stock': stock(name), 'BRS': swapped(name)}


FAMILIES: dict[str, dict[str, Callable[[], Config]]] = {
    'ATSS': {
        'stock': stock('atss/atss_r50_fpn_1x_coco.py'),
        'BRS': ours('atss/atss_r50_fpn_brs_4xb4-1x_coco.py'),
    },
    'RetinaNet': {
        'stock': stock('retinanet/retinanet_r50_fpn_1x_coco.py'),
        'BRS': ours('retinanet/retinanet_r50_fpn_brs_4xb4-1x_coco.py'),
    },
    'PAA': {
        'stock': stock('paa/paa_r50_fpn_1x_coco.py'),
        'BRS': ours('paa/paa_r50_fpn_brs_4xb4-1x_coco.py'),
    },
    'Faster R-CNN': {
        'stock': stock('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'),
        'BRS': ours('faster_rcnn/faster-rcnn_r50_fpn_brs_4xb4-1x_coco.py'),
    },
    'Cascade R-CNN': {
        'stock': stock('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'),
        'BRS': ours('cascade_rcnn/cascade-rcnn_r50_fpn_brs_4xb4-1x_coco.py'),
    },
    'Mask R-CNN': {
        'stock': stock('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'),
        'BRS': ours('mask_rcnn/mask-rcnn_r50_fpn_brs_4xb4-1x_coco.py'),
    },
    'BRS-DETR': {
        'stock': ours('co_detr/co-deformable-detr_r50_8xb2-12e_coco.py'),
        'BRS': ours('brs_detr/brs-detr_r50_8xb2-12e_coco.py'),
    },
    'FCOS': both('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'),
    'GFL': both('gfl/gfl_r50_fpn_1x_coco.py'),
    'VFNet': both('vfnet/vfnet_r50_fpn_1x_coco.py'),
    'RTMDet': both('rtmdet/rtmdet_tiny_8xb32-300e_coco.py'),
    'DINO': both('dino/dino-4scale_r50_8xb2-12e_coco.py'),
}
"""For each kind of detector, its config with the loss that it was designed with, and with BRS Loss."""


def build(cfg: Config, on_gpu: bool) -> tuple[BaseModel | MMDistributedDataParallel, Any]:
    """The model on the device, with random weights, and its optimizer for mixed precision; on all processes."""
    enter_scope(cfg)
    torch.manual_seed(0)
    cfg.model.backbone.pop('init_cfg', None)  # nothing is downloaded
    # Without trained statistics, the activations of random layers would overflow in float16.
    cfg.model.backbone.norm_eval = False
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
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


def step(cfg: Config, size: tuple[int, int], steps: int, on_gpu: bool) -> dict[str, Any]:
    """The last loss, the median milliseconds of all steps but the first, and the peak memory of these.

    Raises:
        ValueError: A loss or a parameter is not finite.
    """
    model, wrapper = build(cfg, on_gpu)
    num_classes = max(getattr(module, 'num_classes', 1) for module in model.modules())
    with_mask = any(name.endswith('mask_head') for name, _ in model.named_modules())
    num_items = [7 + get_rank(), 5]
    batch = demo_mm_inputs(2, [[3, *size]] * 2, num_items=num_items, num_classes=num_classes, with_mask=with_mask)
    times = []
    for index in range(steps):
        if on_gpu:
            torch.cuda.synchronize()
            if index == 1:
                torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        logs = model.train_step(batch, wrapper)
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    bad = [name for name, value in logs.items() if not torch.isfinite(value).all()]
    bad += [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f'not finite after {steps} steps: {", ".join(bad[:5])}')
    return dict(
        loss=round(float(logs['loss']), 4),
        milliseconds=round(1000 * statistics.median(times[1:]), 1),
        peak_megabytes=round(torch.cuda.max_memory_allocated() / 1e6) if on_gpu else '',
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, help='CSV to write')
    parser.add_argument('--families', nargs='+', choices=FAMILIES, default=list(FAMILIES), metavar='NAME')
    parser.add_argument(
        '--size', type=int, nargs=2, default=[800, 1344], metavar=('HEIGHT', 'WIDTH'), help='of the images in pixels'
    )
    parser.add_argument('--steps', type=int, default=2, help='how many steps each detector takes, at least 2')
    parser.add_argument('--cpu', action='store_true', help='use no GPU')
    args = parser.parse_args(argv)
    on_gpu = not args.cpu
    MMLogger.get_instance('mmengine', log_level='WARNING')  # else it prints a line for each parameter of a DETR
    if 'RANK' in os.environ:  # started by torchrun
        if on_gpu:
            init_dist('pytorch', backend='nccl')
        else:
            launch_on_cpu(Config(dict(launcher='pytorch')))
    rows = []
    losses = ('stock', 'BRS') if on_gpu else ('BRS',)
    for name, loss in itertools.product(args.families, losses):
        row = dict(
            detector=name, trained_with=loss, processes=get_world_size(), precision='float16' if on_gpu else 'bfloat16',
            loss='', milliseconds='', peak_megabytes='', note='',
        )  # fmt: skip
        try:
            row |= step(FAMILIES[name][loss](), tuple(args.size), args.steps, on_gpu)
        except Exception as error:  # noqa: BLE001  (the other detectors are still tried)
            row |= dict(note=f'{type(error).__name__}: {error}'.splitlines()[0][:200])
        rows.append(row)
        if get_rank() == 0:
            write_csv(args.out, rows)
            print(*row.values(), flush=True)
        if on_gpu:
            torch.cuda.empty_cache()
    return int(any(row['note'] for row in rows if row['trained_with'] == 'BRS'))


if __name__ == '__main__':
    sys.exit(main())
