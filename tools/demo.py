"""The main job on the embedded data: train BRS-ATSS on drawn shapes on the CPU, print its AP, leave pictures.

python tools/demo.py [--work-dir work_dirs/demo] [--cfg-options KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import mmcv
import torch
from make_shapes import main as make_shapes
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.runner import Runner
from plot_curves import plot_curves
from train import build_runner
from train import parse_args as parse_train_args

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py'


def draw_detections(runner: Runner, folder: Path, num: int, score_thr: float) -> None:
    """Write ``num`` validation images with ground truth (left) and detections (right) to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = runner.val_dataloader.dataset
    visualizer = DetLocalVisualizer(name='demo', line_width=2)
    visualizer.dataset_meta = dataset.metainfo
    runner.model.eval()
    for index in range(min(num, len(dataset))):
        item = dataset[index]
        with torch.no_grad():
            (sample,) = runner.model.test_step({key: [value] for key, value in item.items()})
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        visualizer.add_datasample(
            'detections',
            mmcv.imresize(image, (2 * image.shape[1], 2 * image.shape[0])),
            _scaled(sample, 2),
            pred_score_thr=score_thr,
            out_file=str(folder / f'{index:02d}.png'),
        )


def _scaled(sample: DetDataSample, factor: float) -> DetDataSample:
    for instances in (sample.gt_instances, sample.pred_instances):
        instances.bboxes = instances.bboxes * factor
    return sample


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dir', default=str(ROOT / 'work_dirs/demo'), help='logs, checkpoints, pictures')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='as for tools/train.py')
    args = parser.parse_args(argv)

    data_root = os.environ.setdefault('SHAPES_ROOT', str(ROOT / 'data/shapes'))
    make_shapes([data_root])

    options = ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    runner = build_runner(parse_train_args([str(CONFIG), '--work-dir', args.work_dir, *options]))
    runner.train()

    work_dir = Path(args.work_dir)
    draw_detections(runner, work_dir / 'detections', num=8, score_thr=0.5)
    # Curves of this run alone, whatever else the folder holds.
    plot_curves({'BRS-ATSS on drawn shapes': [runner.log_dir]}, work_dir / 'curves.png')
    print(f'Detections beside ground truth: {work_dir}/detections/*.png\nCurves: {work_dir}/curves.png')


if __name__ == '__main__':
    main()
