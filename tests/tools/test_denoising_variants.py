"""The heads of the experiment on denoising queries: what each of them ranks, against loops."""

from __future__ import annotations

import pytest

pytest.importorskip('mmdet')

import denoising_variants  # noqa: F401  (registers the heads)
from detr_reference import slow_query_losses
from small_query_heads import NUM_GROUPS, case, small_head

LAYERS = ('d0.', '')


def groups(queries, num_images=2):
    """The queries of each group, of all images."""
    size = len(queries) // (num_images * NUM_GROUPS)
    parts = [queries[start : start + size] for start in range(0, len(queries), size)]
    return [[query for part in parts[group::NUM_GROUPS] for query in part] for group in range(NUM_GROUPS)]


def images(queries):
    half = len(queries) // 2
    return [queries[:half], queries[half:]]


@pytest.mark.parametrize('loss', ['BucketedAPLoss', 'BucketedRSLoss'])
@pytest.mark.parametrize(('variant', 'split'), [('GroupDenoisingDINOHead', groups), ('ImageDenoisingDINOHead', images)])
def test_each_part_is_ranked_alone_and_the_mean_is_taken(variant, split, loss):
    head = small_head('DINOHead', loss, type=variant)
    given = case(head, 'DINOHead')
    losses = head.loss_by_feat(*given.arguments)
    expected = {}
    for prefix, queries in given.sets.items():
        parts = split(queries) if 'dn_' in prefix else [queries]
        for index, part in enumerate(parts):
            own = prefix.replace('dn_', f'dn{index}_')
            values, _ = slow_query_losses(loss, part, class_weight=2.0)
            expected |= {own + name: value / len(parts) for name, value in values.items()}
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize('loss', ['BucketedAPLoss', 'BucketedRSLoss'])
def test_denoising_queries_are_ranked_together_with_the_matched_ones(loss):
    head = small_head('DINOHead', loss, type='JointDenoisingDINOHead')
    given = case(head, 'DINOHead')
    losses = head.loss_by_feat(*given.arguments)
    sets = {prefix: given.sets[prefix] + given.sets[f'{prefix}dn_'] for prefix in LAYERS}
    sets['enc_'] = given.sets['enc_']
    expected = {
        prefix + name: value
        for prefix, queries in sets.items()
        for name, value in slow_query_losses(loss, queries, class_weight=2.0)[0].items()
    }
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)
