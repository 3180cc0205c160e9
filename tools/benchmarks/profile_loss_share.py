"""Share of a training step that the ranking losses take, forward and backward, by torch.profiler; as Markdown.

python tools/benchmarks/profile_loss_share.py CONFIG [CONFIG ...] [--coco-size] [--iterations 3]
                                              [--cfg-options KEY=VALUE ...] [--out FILE.csv]

A step is forward, backward and update with a batch of the config's own data. ``--coco-size`` needs no data: only the
heads run, on random features of 4 images of 800 x 1333 with 7 objects each.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from tables import markdown, write_csv
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from bucketed_losses.errors import UserError, one_line_errors
from bucketed_losses.mmdet.engine.config import enter_scope
from bucketed_losses.mmdet.engine.runner import apply_options, parse_options
from bucketed_losses.mmdet.models.losses import RankingLoss
from bucketed_losses.study.times import TimedRun

LOSS, BACKWARD, STEP = 'ranking losses', '_WithGradientBackward', 'training step'


class HeadsOnCOCOSize:
    """The heads of a config's detector on random features; no backbone, no data."""

    def __init__(self, config: str, options: list[str]) -> None:
        cfg = Config.fromfile(config)
        apply_options(cfg, parse_options(options))
        enter_scope(cfg)
        torch.manual_seed(0)
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.model = MODELS.build(cfg.model).to(device).train()  # no init_weights: nothing is downloaded
        heads = [m for m in self.model.modules() if isinstance(m, RankingLoss)]
        if not heads:
            raise UserError(f'{config} has no ranking loss')
        num_classes = max(getattr(m, 'num_classes', 1) for m in self.model.modules())
        batch = demo_mm_inputs(4, [[3, 800, 1333]] * 4, num_items=[7] * 4, num_classes=num_classes)
        self.batch = self.model.data_preprocessor(batch, training=True)
        head = getattr(self.model, 'rpn_head', None) or self.model.bbox_head
        height, width = self.batch['inputs'].shape[-2:]
        self.features = [
            torch.randn(4, head.in_channels, -(-height // y), -(-width // x), device=device)
            for x, y in head.prior_generator.strides
        ]
        self.model.extract_feat = lambda inputs: tuple(x.requires_grad_() for x in self.features)

    def step(self) -> None:
        losses = self.model(**self.batch, mode='loss')
        self.model.parse_losses(losses)[0].backward()
        self.model.zero_grad()


class WholeSteps:
    """Steps of a config's own training."""

    def __init__(self, config: str, work_dir: str, options: list[str]) -> None:
        self.run = TimedRun(config, work_dir, options)
        self.model = self.run.model
        self.batch = next(self.run.batches)

    def step(self) -> None:
        self.model.train_step(self.batch, self.run.optim_wrapper)


def annotate(model: nn.Module) -> None:
    """Have every ranking loss of a model show up in a profile under one name."""

    def wrap(forward: Any) -> Any:
        def annotated(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
            with record_function(LOSS):
                return forward(*args, **kwargs)

        return annotated

    for module in model.modules():
        if isinstance(module, RankingLoss):
            module.__dict__['forward'] = wrap(module.forward)


def shares(run: HeadsOnCOCOSize | WholeSteps, iterations: int) -> tuple[float, float, float, float]:
    """Milliseconds per step, in the losses' forward and in their backward, and calls of losses per step."""
    annotate(run.model)
    run.step()
    on_cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as profiler:
        for _ in range(iterations):
            with record_function(STEP):
                run.step()
                if on_cuda:
                    torch.cuda.synchronize()
    # The host's time: it waits for the device within the losses and at the end of a step.
    spent = {name: [0.0, 0] for name in (STEP, LOSS, BACKWARD)}
    for event in profiler.key_averages():
        if event.key in spent:
            spent[event.key] = [event.cpu_time_total / 1000 / iterations, event.count]
    return spent[STEP][0], spent[LOSS][0], spent[BACKWARD][0], spent[LOSS][1] / iterations


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    parser.add_argument(
        '--coco-size', action='store_true', help='run only the heads, on random features of 4 images of COCO size'
    )
    parser.add_argument('--iterations', type=int, default=3, help='profiled steps; 1 more warms up')
    parser.add_argument('--cfg-options', nargs='+', action='extend', default=[], help='as for tools/train.py')
    parser.add_argument('--out', type=Path, help='CSV to write')
    args = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as work_dir:  # one for all: MMEngine's visualizer stays with the first
        for config in args.configs:
            if args.coco_size:
                run: HeadsOnCOCOSize | WholeSteps = HeadsOnCOCOSize(config, args.cfg_options)
            else:
                run = WholeSteps(config, work_dir, args.cfg_options)
            step, forward, backward, calls = shares(run, args.iterations)
            rows.append(
                {
                    'config': Path(config).stem,
                    'loss calls per step': f'{calls:g}',
                    'ms per step': f'{step:.0f}',
                    'forward ms': f'{forward:.1f}',
                    'backward ms': f'{backward:.1f}',
                    'share': f'{(forward + backward) / step:.2%}',
                }
            )
    print(markdown(list(rows[0]), [list(row.values()) for row in rows]))
    if args.out:
        write_csv(args.out, rows)


if __name__ == '__main__':
    main()
