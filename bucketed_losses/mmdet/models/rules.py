"""Rules that the recipes of several heads have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from mmdet.models.losses import CrossEntropyCustomLoss, CrossEntropyLoss, SeesawLoss
from mmdet.models.task_modules.assigners import ClassificationCost, FocalLossCost
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.samplers import PseudoSampler
from mmdet.registry import TASK_UTILS

from .losses import takes_decoded_boxes
from .recipes import Inner, Note, Part, Path, Refusal, Role, Rule, Setting

STDS = [0.1, 0.1, 0.2, 0.2]
MATCHING_WEIGHT = 4.0


def ranking_loss(weight: float | None = None, *, not_balanced: str = '') -> Rule:
    """``loss_cls`` becomes the ranking loss. An initialisation that sets a bias becomes the head's default.

    Args:
        weight: ``loss_weight`` if the detector gives none; None for the loss's default.
        not_balanced: Why the loss does not scale other losses of this head to its value; '' if it may.
    """

    def apply(part: Part) -> Iterator[Setting]:
        own_weight = weight if part.loss_weight is None else part.loss_weight
        loss: dict[str, Any] = dict(type=part.loss_name)
        if own_weight is not None:
            loss['loss_weight'] = own_weight
        reason = 'the ranking loss: one sigmoid per class, no background column'
        old = part.config.get('loss_cls')
        softmaxes = (CrossEntropyLoss, CrossEntropyCustomLoss, SeesawLoss)
        if isinstance(old, dict) and part.type_of(old) in softmaxes and not old.get('use_sigmoid', False):
            reason += '; it was a softmax'
        if not_balanced and part.scales_other_losses:
            loss['self_balancing'] = False
            reason += f'; {not_balanced}'
        if isinstance(old, dict) and own_weight is not None and old.get('loss_weight', 1) != own_weight:
            reason += f'; its weight is {own_weight:g}, as in BRS-DETR, instead of {old.get("loss_weight", 1):g}'
        yield Setting(('loss_cls',), loss, reason)
        if any('bias' in str(key) for initial in _dicts(part.config.get('init_cfg')) for key in initial):
            reason = "the head's default: a prior probability in the bias would stay in all scores"
            yield Setting(('init_cfg',), None, reason)

    return Rule(('loss_cls', 'init_cfg'), apply)


def without_second_box_loss() -> Rule:
    """aLRP Loss is refused for queries, as their head refuses it when it is built."""

    def apply(part: Part) -> Iterator[Refusal]:
        if 'loss_bbox' in part.loss.LOG_NAMES:
            yield Refusal('it is a box loss too, and queries have their own; choose ap, bap, rs, brs or dr')

    return Rule((), apply)


def coder_stds() -> Rule:
    """The box coder gets the standard deviations of the paper, if it encodes boxes as Faster R-CNN does."""

    def apply(part: Part) -> Iterator[Setting]:
        reason = 'the stds of the paper'
        if 'bbox_coder' not in part.config:
            coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, clip_border=True, target_stds=STDS)
            yield Setting(('bbox_coder',), coder, reason)
            return
        coder = part.config['bbox_coder']
        if part.type_of(coder, TASK_UTILS) is DeltaXYWHBBoxCoder and list(coder.get('target_stds', ())) != STDS:
            yield Setting(('bbox_coder', 'target_stds'), STDS, reason)

    return Rule(('bbox_coder',), apply)


def decoded_box_loss(
    weight: float, key: str = 'loss_bbox', *, default_fits: bool = False, keep_weight: bool = False
) -> Rule:
    """A box loss becomes ``GIoULoss``, unless it is on decoded boxes already.

    Args:
        weight: Its ``loss_weight`` if the ranking loss does not balance it.
        key: The key of the loss.
        default_fits: Whether the head's default loss, which applies if the config lacks the key, is on decoded boxes.
        keep_weight: Set the weight in any case, because the head balances several box losses together.
    """

    def apply(part: Part) -> Iterator[Setting]:
        if default_fits and key not in part.config:
            return
        old = part.type_of(part.config.get(key))
        if old is not None and takes_decoded_boxes(old):
            return
        if keep_weight:
            new = dict(type='GIoULoss', loss_weight=weight)
            yield Setting((key,), new, 'on decoded boxes; its weight relative to the other box loss stays')
        elif part.loss.balances_itself:
            yield Setting((key,), dict(type='GIoULoss'), 'on decoded boxes; it is balanced, so its weight would cancel')
        else:
            new = dict(type='GIoULoss', loss_weight=weight)
            yield Setting((key,), new, 'on decoded boxes; this loss does not balance it')

    return Rule((key,), apply)


def decoded_boxes() -> Rule:
    """``reg_decoded_bbox`` becomes True."""

    def apply(part: Part) -> Iterator[Setting]:
        if part.config.get('reg_decoded_bbox') is False:
            yield Setting(('reg_decoded_bbox',), True, 'the targets are the IoUs of decoded boxes')

    return Rule(('reg_decoded_bbox',), apply)


def nothing_sampled() -> Rule:
    """The sampler of anchors or points becomes ``PseudoSampler``."""

    def apply(part: Part) -> Iterator[Setting]:
        for where in each(part.train_cfg):
            settings = at(part.train_cfg, where)
            if 'sampler' in settings and part.type_of(settings['sampler'], TASK_UTILS) is not PseudoSampler:
                sampler = dict(type='PseudoSampler')
                reason = 'all anchors are ranked: nothing is sampled'
                yield Setting((*where, 'sampler'), sampler, reason, 'train_cfg')

    return Rule(('train_cfg.sampler',), apply)


def three_anchor_scales() -> Rule:
    """A note on the anchors of the paper; the anchors of the config are not changed."""

    def apply(part: Part) -> Iterator[Note]:
        generator = part.config.get('anchor_generator')
        if isinstance(generator, dict) and generator.get('scales_per_octave') == 1:
            yield Note(
                'the paper trains this head with three anchor scales, anchor_generator=dict(octave_base_scale=4, '
                'scales_per_octave=3); your anchors are not changed'
            )

    return Rule((), apply)


def matching_costs() -> Rule:
    """The class cost of matching reads sigmoid scores, and has the weight that was published for BRS-DETR.

    The settings of training are those of the detector, or the head's own.
    """

    def apply(part: Part) -> Iterator[Setting]:
        own = part.config.get('train_cfg')
        of, above = ('head', ('train_cfg',)) if own else ('train_cfg', ())
        settings = own or part.train_cfg
        for stage in each(settings):
            costs = (at(settings, stage).get('assigner') or {}).get('match_costs')
            for where in each(costs):
                path = (*above, *stage, 'assigner', 'match_costs', *where)
                cost = at(costs, where)
                kind = part.type_of(cost, TASK_UTILS)
                if kind is FocalLossCost and not cost.get('binary_input'):  # otherwise it is a cost of masks
                    reason = 'matching weighs classes as published for BRS-DETR'
                    yield Setting((*path, 'weight'), MATCHING_WEIGHT, reason, of)
                elif kind is ClassificationCost:
                    focal = dict(type='FocalLossCost', weight=MATCHING_WEIGHT)
                    reason = 'scores are sigmoids; matching weighs classes as published for BRS-DETR'
                    yield Setting(path, focal, reason, of)

    return Rule(('train_cfg.assigner.match_costs',), apply)


def no_rescoring() -> Rule:
    """A note for side-aware boxes: the confidences of their buckets do not change scores."""

    def apply(part: Part) -> Iterator[Note]:
        yield Note(
            f'{part.path}: scores are not multiplied by the confidences of the buckets (bucketing guided rescoring), '
            'because the classifier learns the order of the boxes by their IoUs'
        )

    return Rule((), apply)


def without_effect(of: Literal['train_cfg', 'test_cfg'] = 'train_cfg', **reasons: str) -> Rule:
    """Notes on settings of ``train_cfg`` or ``test_cfg`` that have no effect any more.

    Args:
        of: Which of both.
        reasons: The reason by the name of the setting.
    """

    def apply(part: Part) -> Iterator[Note]:
        settings = part.train_cfg if of == 'train_cfg' else part.test_cfg
        for where in each(settings):
            for key, reason in reasons.items():
                if key in at(settings, where):
                    yield Note(f'{part.path}: {key} of {of} has no effect: {reason}')

    return Rule((), apply, tuple(f'{of}.{key}' for key in reasons))


def without_hard_negatives() -> Rule:
    """A note on the mining of hard negatives of SSD and YOLACT, which has no effect."""
    return without_effect(neg_pos_ratio='all anchors are ranked, so no hard negatives are chosen')


def no_sample_weights() -> Rule:
    """Notes for PISA: a ranking loss does what its settings are for, so they have no effect."""
    return without_effect(
        isr='it weights the samples of a classification loss, and a ranking loss has no such weights',
        carl='it weights box losses by scores, which the box loss of this head does, too',
    )


def kept_branch(key: str, reason: str) -> Rule:
    """A note on a branch of an RoI head whose loss is not changed."""

    def apply(part: Part) -> Iterator[Note]:
        if part.config.get(key):
            yield Note(f'{part.path}.{key} keeps its loss and its weight: {reason}')

    return Rule((), apply)


def inner_heads(key: str, role: Role) -> Rule:
    """The heads inside another head get their own recipes."""

    def apply(part: Part) -> Iterator[Inner]:
        for where in each(part.config.get(key)):
            yield Inner((key, *where), role)

    return Rule((key,), apply)


ANCHOR_HEAD = (ranking_loss(), coder_stds(), decoded_box_loss(2.0), decoded_boxes(), nothing_sampled())
"""Rules of a head with anchors that encodes boxes as deltas."""

SIDE_AWARE_HEAD = (
    ranking_loss(
        not_balanced='the losses of side-aware boxes keep their weights, with which AP was higher on small data'
    ),
    no_rescoring(),
)
"""Rules of a head of SABL."""

QUERY_HEAD = (without_second_box_loss(), ranking_loss(weight=2.0), matching_costs())
"""Rules of a head with queries."""

POINT_HEAD = (ranking_loss(), decoded_box_loss(2.0, default_fits=True), nothing_sampled())
"""Rules of a head that regresses distances, with a box loss on decoded boxes by default."""


def _dicts(part: Any) -> Iterator[dict]:
    """All dicts in a part of a config."""
    if isinstance(part, dict):
        yield part
    if isinstance(part, (dict, list, tuple)):
        for value in part.values() if isinstance(part, dict) else part:
            yield from _dicts(value)


def each(part: Any) -> Iterator[Path]:
    """The path from ``part`` to each of its dicts: ``part`` is one dict, a list of dicts, or None."""
    if isinstance(part, dict):
        yield ()
    elif isinstance(part, (list, tuple)):
        yield from ((index,) for index, item in enumerate(part) if isinstance(item, dict))


def at(part: Any, where: Path) -> Any:
    """The value at a path below ``part``."""
    for key in where:
        part = part[key]
    return part
