"""How each loss shares its gradient between positives and negatives, on the same logits of a detector.

The logits, targets and IoUs are those that the ranking losses of a model are given on its first training batches, with
the weights of a checkpoint. The share is the part of the gradient (sum of absolute values over logits) that falls on
positives, as the mean over batches. A loss whose gradient is mostly on negatives needs a weight against them.

Focal loss and cross-entropy (one sigmoid per class) are MMDetection's, with their defaults; aLRP Loss is given
``1 - IoU`` as the error of a box. Factors of a whole loss, such as a mean over positives, change no share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from mmdet.models.losses import CrossEntropyLoss, FocalLoss
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from bucketed_losses import functional
from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine import load_safely
from bucketed_losses.mmdet.engine.config_checks import read_config
from bucketed_losses.mmdet.engine.runner import apply_options, runner_from
from bucketed_losses.mmdet.evaluation import RankedBatch, watch_ranking_losses
from bucketed_losses.mmdet.models.losses import RankingLoss
from bucketed_losses.terminal import progress_bar

from .store import write_json


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
    """Load weights into a model that may have other branches.

    A softmax classifier has one channel more than a ranked one, so the weights of stock R-CNN heads do not fit, while
    those of their RPN do.

    Returns:
        Names of the heads that the weights do not fit.

    Raises:
        UserError: the file is not a checkpoint, no head fits, or a part that all heads use does not.
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
        raise UserError(f'{checkpoint} belongs to another model: {key} of shape {tuple(own[key].shape)} {there}')
    model.load_state_dict(fitting, strict=False)
    return left_out


def shares_of(runner: Runner, checkpoint: str, batches: Sequence) -> dict[str, dict]:
    """For each ranking loss of the model, the shares of every loss (mean over batches) and mean numbers of entries."""
    model = runner.model
    left_out = load_weights(model, checkpoint)
    if left_out:
        print(f'{checkpoint} does not fit {", ".join(left_out)}, which are left out')
    model.train()
    captured: dict[str, list[RankedBatch]] = defaultdict(list)
    with torch.no_grad(), watch_ranking_losses(model, lambda batch: captured[batch.name].append(batch)):
        for data in progress_bar(batches, f'{Path(checkpoint).name}: batches'):
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


def measure_shares(
    config: str,
    checkpoints: Sequence[str],
    batches: int = 4,
    options: Mapping[str, Any] | None = None,
    work_dir: str = 'work_dirs/gradient_shares',
) -> Iterator[dict[str, Any]]:
    """For each checkpoint, its name and the result of :func:`shares_of`.

    Args:
        config: File of a config with a ranking loss.
        checkpoints: Files with weights, e.g. early, middle and late in a training. They may come from a training with
            another loss, if the classifier has the same shape.
        batches: Training batches whose logits are taken.
        options: Settings of the config to change, as ``--cfg-options`` takes them.
        work_dir: Folder for logs.

    Raises:
        UserError: a file is missing, ``batches`` is below 1, or the config has no ranking loss.
    """
    if batches < 1:
        raise UserError(f'--batches must be 1 or more, got {batches}')
    for path in (config, *checkpoints):
        if '::' not in path and not Path(path).is_file():
            raise UserError(f'{path} does not exist')
    cfg = read_config(config)
    apply_options(cfg, options or {})
    cfg.launcher = 'none'
    cfg.work_dir = work_dir
    runner = runner_from(cfg, ['train_dataloader'])
    if not any(isinstance(module, RankingLoss) for module in runner.model.modules()):
        raise UserError(f'{config} has no ranking loss; add one with bucketed-losses swap')
    loader = runner.build_dataloader(cfg.train_dataloader)
    taken = [batch for batch, _ in zip(loader, range(batches), strict=False)]
    for checkpoint in checkpoints:
        yield dict(checkpoint=checkpoint, losses=shares_of(runner, checkpoint, taken))


def write_shares(out: str, config: str, checkpoints: Sequence[str]) -> None:
    """Write the results of :func:`measure_shares` to a JSON file."""
    path = Path(out)
    write_json(path, list(measure_shares(config, checkpoints, work_dir=str(path.parent))))
