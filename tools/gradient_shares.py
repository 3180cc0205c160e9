"""How each loss shares its gradient between positives and negatives, on the same logits of a detector.

python tools/gradient_shares.py CONFIG CHECKPOINT [CHECKPOINT ...] [--batches 4] [--json FILE]
                                [--cfg-options KEY=VALUE ...]

CONFIG has a ranking loss (tools/swap_loss.py makes one of any other). The logits, targets and IoUs that its ranking
losses are given on the first training batches are taken from the model as each checkpoint has it, e.g. early, middle
and late in a training. The checkpoints may come from another loss, as long as the classifier has the same shape.
Printed is the share of the gradient (sum of absolute values over logits) that falls on positives, as the mean over
batches.

A loss whose gradient is mostly on negatives is one that needs a weight against them. Focal loss and cross-entropy (one
sigmoid per class) are MMDetection's, with their defaults; aLRP Loss is given ``1 - IoU`` as the error of a box. Means
over positives and other factors of a whole loss change no share.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

import _needs_mmdet  # noqa: F401
import torch
from _checkpoint import load_safely
from _runner import apply_options, runner_from
from mmdet.models.losses import CrossEntropyLoss, FocalLoss
from mmengine.config import DictAction
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from bucketed_losses import functional
from bucketed_losses.errors import UserError, one_line_errors
from bucketed_losses.mmdet.engine.config_checks import read_config
from bucketed_losses.mmdet.evaluation import RankedBatch, watch_ranking_losses
from bucketed_losses.mmdet.models.losses import RankingLoss


def _score_based(module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, targets: module(logits.view(-1, 1), (targets > 0).to(logits.dtype).view(-1, 1))


LOSSES: dict[str, Callable[[Tensor, Tensor], object]] = {
    'CE': _score_based(CrossEntropyLoss(use_sigmoid=True)),
    'Focal': _score_based(FocalLoss()),
    'AP': functional.ap_loss,
    'BAP': functional.bucketed_ap_loss,
    'RS': functional.rs_loss,
    'BRS': functional.bucketed_rs_loss,
    'aLRP': lambda logits, targets: functional.alrp_loss(logits, targets, 1 - targets[targets > 0]).classification,
    'DR': functional.dr_loss,
}


def gradient_shares(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Per loss, the sum of absolute gradients of the positives over that of all.

    Args:
        logits: Any shape, floating point.
        targets: Same shape: 0 negative, above 0 the IoU of a positive, below 0 ignored.

    Returns:
        Shares in [0, 1]; NaN where the gradient is 0 everywhere.
    """
    counted = targets.flatten() >= 0
    logits, targets = logits.detach().flatten()[counted].float(), targets.flatten()[counted].float()
    shares = {}
    for name, loss in LOSSES.items():
        leaf = logits.clone().requires_grad_()
        total = torch.stack([part.sum() for part in tree_flatten(loss(leaf, targets))[0]]).sum()
        (grad,) = torch.autograd.grad(total, leaf)
        size = grad.abs().double()
        shares[name] = float(size[targets > 0].sum() / size.sum())
    return shares


def load_weights(model: nn.Module, checkpoint: str) -> list[str]:
    """Weights into a model that may have other branches; returns the heads that they do not fit.

    A softmax classifier has a channel more than a ranked one, so stock R-CNN heads do not fit, while their RPN does.

    Raises:
        SystemExit: no head fits, or something that all heads look at does not.
    """
    loaded = load_safely(checkpoint)
    weights = loaded.get('state_dict', loaded)
    own = model.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    # A loss may have a state of its own.
    missing = [key for key in own if key not in fitting and '.loss_' not in key]
    heads = [name.rpartition('.')[0] for name, part in model.named_modules() if isinstance(part, RankingLoss)]
    left_out = [head for head in heads if any(key.startswith(f'{head}.') for key in missing)]
    shared = [key for key in missing if not key.startswith(tuple(f'{head}.' for head in heads))]
    if shared or len(left_out) == len(heads):
        key = (shared or missing)[0]
        there = f'has the shape {tuple(weights[key].shape)} there' if key in weights else 'is not there'
        raise SystemExit(
            f'gradient_shares: {checkpoint} is of another model: {key} of shape {tuple(own[key].shape)} {there}'
        )
    model.load_state_dict(fitting, strict=False)
    return left_out


def shares_of(runner: Runner, checkpoint: str, batches: Sequence) -> dict[str, dict]:
    """By ranking loss of the model: shares of every loss, mean over batches, and mean numbers of entries."""
    model = runner.model
    left_out = load_weights(model, checkpoint)
    if left_out:
        print(f'{checkpoint} does not fit {", ".join(left_out)}: left out')
    model.train()
    captured: dict[str, list[RankedBatch]] = defaultdict(list)
    with torch.no_grad(), watch_ranking_losses(model, lambda batch: captured[batch.name].append(batch)):
        for data in batches:
            data = model.data_preprocessor(data, True)
            model(**data, mode='loss')
    found = {}
    for name, ranked in captured.items():
        with_positives = [batch for batch in ranked if (batch.targets > 0).any()]
        if not with_positives or name.rpartition('.')[0] in left_out:
            continue
        shares = [gradient_shares(batch.logits, batch.targets) for batch in with_positives]
        found[name] = dict(
            positives=mean(int((batch.targets > 0).sum()) for batch in with_positives),
            negatives=mean(int((batch.targets == 0).sum()) for batch in with_positives),
            shares={loss: mean(share[loss] for share in shares) for loss in LOSSES},
        )
    return found


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='with a ranking loss')
    parser.add_argument('checkpoints', nargs='+', metavar='CHECKPOINT')
    parser.add_argument('--batches', type=int, default=4, help='training batches to take logits from')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write what was found there')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='as for tools/train.py')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error in the input')
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.batches < 1:
        raise UserError(f'--batches must be 1 or more, got {args.batches}')
    for path in args.checkpoints:
        if not Path(path).is_file():
            raise UserError(f'{path} does not exist')
    cfg = read_config(args.config)
    apply_options(cfg, args.cfg_options)
    cfg.launcher = 'none'
    cfg.work_dir = str(args.json.parent if args.json else Path('work_dirs/gradient_shares'))
    runner = runner_from(cfg, ['train_dataloader'])
    if not any(isinstance(module, RankingLoss) for module in runner.model.modules()):
        raise UserError(f'{args.config} has no ranking loss; tools/swap_loss.py gives it one')
    loader = runner.build_dataloader(cfg.train_dataloader)
    batches = [batch for batch, _ in zip(loader, range(args.batches), strict=False)]
    records = []
    for checkpoint in args.checkpoints:
        losses = shares_of(runner, checkpoint, batches)
        records.append(dict(checkpoint=checkpoint, losses=losses))
        print(f'\n{checkpoint}\n\n| ranked by | positives : negatives | ' + ' | '.join(LOSSES) + ' |')
        print('|---' * (2 + len(LOSSES)) + '|')
        for name, found in losses.items():
            ratio = f'1 : {found["negatives"] / found["positives"]:.0f}'
            print(f'| {name} | {ratio} | ' + ' | '.join(f'{share:.3f}' for share in found['shares'].values()) + ' |')
    if args.json:
        aside = args.json.with_name(f'.{args.json.name}')
        aside.write_text(json.dumps(records, indent=1))
        aside.replace(args.json)


if __name__ == '__main__':
    main()
