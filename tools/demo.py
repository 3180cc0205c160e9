"""The main job on the embedded data: train BRS-ATSS on drawn shapes on the CPU, print its AP, leave pictures.

python tools/demo.py [--work-dir work_dirs/demo] [--processes N] [--cfg-options KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import mmcv
import torch
from make_shapes import main as make_shapes
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.dist import collect_results, is_main_process
from mmengine.runner import Runner
from plot_curves import plot_curves
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from train import build_runner
from train import parse_args as parse_train_args

from bucketed_losses.datasets.shapes import is_shapes

BATCH_SIZE = 8
ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py'


def predict(runner: Runner) -> list[DetDataSample]:
    """Detections and ground truth of every validation image, in original pixels, on the CPU.

    In a distributed run every process predicts its share; the first one returns all of them, the others nothing.
    """
    runner.model.eval()
    samples: list[DetDataSample] = []
    with torch.no_grad():
        for batch in runner.val_dataloader:
            samples += [sample.cpu() for sample in runner.model.val_step(batch)]
    return collect_results(samples, len(runner.val_dataloader.dataset), device='cpu') or []


def best_f1_thresholds(annotations: COCO, samples: list[DetDataSample]) -> list[float]:
    """Per class, the score at which detections have the best F1 at IoU 0.5.

    Scores of a ranking loss are an order, not confidences: a threshold must be chosen on data.
    """
    category_ids = sorted(annotations.getCatIds())
    detections = [
        {
            'image_id': sample.img_id,
            'category_id': category_ids[label],
            'bbox': [x1, y1, x2 - x1, y2 - y1],
            'score': score,
        }
        for sample in samples
        for (x1, y1, x2, y2), label, score in zip(
            sample.pred_instances.bboxes.tolist(),
            sample.pred_instances.labels.tolist(),
            sample.pred_instances.scores.tolist(),
            strict=True,
        )
    ]
    evaluation = COCOeval(annotations, annotations.loadRes(detections), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    # (IoU, recall, class, area, detections per image): IoU 0.5, all areas, most detections.
    precision, scores = (evaluation.eval[key][0, :, :, 0, -1] for key in ('precision', 'scores'))
    recall = evaluation.params.recThrs[:, None]
    f1 = 2 * precision * recall / (precision + recall).clip(min=1e-9)
    return scores[f1.argmax(axis=0), range(len(category_ids))].tolist()


def draw_detections(samples: list[DetDataSample], thresholds: list[float], meta: dict, folder: Path) -> None:
    """Write every sample with ground truth (left) and detections above their class's threshold (right)."""
    folder.mkdir(parents=True, exist_ok=True)
    visualizer = DetLocalVisualizer(name='demo', line_width=2)
    visualizer.dataset_meta = meta
    factor = 2
    for index, sample in enumerate(samples):
        detected = sample.pred_instances
        sample.pred_instances = detected[detected.scores >= torch.tensor(thresholds)[detected.labels]]
        for instances in (sample.gt_instances, sample.pred_instances):
            instances.bboxes = instances.bboxes * factor
        image = mmcv.imrescale(mmcv.imread(sample.img_path, channel_order='rgb'), factor)
        out_file = str(folder / f'{index:02d}.png')
        visualizer.add_datasample('detections', image, sample, pred_score_thr=0.0, out_file=out_file)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dir', default=str(ROOT / 'work_dirs/demo'), help='logs, checkpoints, pictures')
    parser.add_argument('--processes', type=int, default=1, help='train on so many processes, with torchrun')
    parser.add_argument('--launcher', choices=['none', 'pytorch'], default='none', help='pytorch: started by torchrun')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='as for tools/train.py')
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)

    data_root = os.environ.setdefault('SHAPES_ROOT', str(ROOT / 'data/shapes'))
    if not is_shapes(data_root):
        make_shapes([data_root])

    if args.processes > 1 and args.launcher == 'none':
        torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={args.processes}']
        raise SystemExit(subprocess.call([*torchrun, __file__, '--launcher', 'pytorch', *argv]))

    # As many images per step as one process has.
    batch_size = max(BATCH_SIZE // int(os.environ.get('WORLD_SIZE', '1')), 1) if args.launcher != 'none' else BATCH_SIZE
    options = ['--cfg-options', f'train_dataloader.batch_size={batch_size}', *args.cfg_options]
    command = [str(CONFIG), '--work-dir', args.work_dir, '--launcher', args.launcher, *options]
    runner = build_runner(parse_train_args(command))
    runner.train()

    work_dir = Path(args.work_dir)
    samples = predict(runner)
    if not is_main_process():
        return
    thresholds = best_f1_thresholds(COCO(f'{data_root}/annotations/val.json'), samples)
    meta = runner.val_dataloader.dataset.metainfo
    draw_detections(samples[:8], thresholds, meta, work_dir / 'detections')
    # Curves of this run alone, whatever else the folder holds.
    plot_curves({'BRS-ATSS on drawn shapes': [runner.log_dir]}, work_dir / 'curves.png')
    drawn = ', '.join(f'{name} {score:.2f}' for name, score in zip(meta['classes'], thresholds, strict=True))
    print(f'Detections beside ground truth: {work_dir}/detections/*.png (drawn from the score of best F1: {drawn})')
    print(f'Curves: {work_dir}/curves.png')


if __name__ == '__main__':
    main()
