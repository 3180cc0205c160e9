"""Ranking across processes against one process with everything."""

from __future__ import annotations

import random

import pytest
import torch
import torch.distributed as dist
from cases import DELTAS, LOSSES, random_case, value_and_grad
from gloo import CountCollectives, on_processes
from shared_ranking import across, run_bytes

pytestmark = [
    pytest.mark.stack,
    pytest.mark.medium,
    pytest.mark.skipif(not dist.is_available(), reason='PyTorch was built without distributed support'),
]

NAMED = {
    'unequal': [(5, 40), (12, 7), (1, 300), (30, 2)],
    'one without positives': [(5, 40), (0, 60), (9, 10), (2, 2)],
    'first without positives': [(0, 40), (8, 60), (9, 10), (2, 2)],
    'nobody with positives': [(0, 40), (0, 60), (0, 1), (0, 5)],
    'one without negatives': [(5, 40), (6, 0), (9, 10), (2, 2)],
    'nobody with negatives': [(5, 0), (6, 0), (1, 0), (2, 0)],
    'one with nothing': [(5, 40), (0, 0), (9, 10), (0, 3)],
    'nobody with anything': [(0, 0), (0, 0), (0, 0), (0, 0)],
    'a single positive': [(0, 40), (1, 60), (0, 10), (0, 2)],
    'only ignored': [(3, 9), (0, 0, 20), (9, 10, 5), (0, 0, 1)],
}


def cases(world):
    """``(name, shards, delta)``; shards are the logits and targets of each process."""
    for index, (name, sizes) in enumerate(NAMED.items()):
        for delta in (0.0, 0.5):
            yield name, [random_case(97 * index + rank, *size) for rank, size in enumerate(sizes[:world])], delta
    choose = random.Random(0)
    for seed in range(15):
        tied = choose.random() < 0.3
        sizes = [(choose.choice([0, 1, 20]), choose.choice([0, 50]), choose.choice([0, 3])) for _ in range(world)]
        shards = [random_case(1000 * seed + rank, *size, tied=tied) for rank, size in enumerate(sizes)]
        yield f'random {seed}', shards, choose.choice(DELTAS)


SETTINGS = [
    (1, torch.float64, 1e-9),
    (2, torch.float64, 1e-9),
    (3, torch.float64, 1e-9),
    (4, torch.float64, 1e-9),
    (2, torch.float32, 1e-6),
]


def run_cases():
    """Per setting, case and loss: value, gradient of this process's logits, collectives. Of four processes, the first
    ``world`` take part."""
    results = []
    for world, dtype, _ in SETTINGS:
        group = dist.new_group(list(range(world)))
        if dist.get_rank() >= world:
            results.append([])
            continue
        of_setting = []
        for _, shards, delta in cases(world):
            logits, targets = shards[dist.get_rank()]
            for loss in LOSSES.values():
                with CountCollectives() as collectives:
                    value, grad = value_and_grad(across(loss, group), logits.to(dtype), targets, delta)
                of_setting.append((value, grad, collectives.names))
        results.append(of_setting)
    return results


@pytest.fixture(scope='module')
def four_processes():
    return on_processes(4, run_cases)


@pytest.mark.parametrize('index', range(len(SETTINGS)), ids=[f'{world} {dtype}' for world, dtype, _ in SETTINGS])
def test_every_process_gets_its_part_of_the_whole(four_processes, index):
    """All four losses: value and gradient of the concatenated logits; DDP's mean undoes the factor ``world``."""
    world, dtype, tolerance = SETTINGS[index]
    expected = [(*case, label) for case in cases(world) for label in LOSSES]
    processes = [process[index] for process in four_processes[:world]]
    for (name, shards, delta, label), *results in zip(expected, *processes, strict=True):
        what = f'{name}, delta={delta}, {label}'
        logits, targets = (torch.cat(parts) for parts in zip(*shards, strict=True))
        value, grad = value_and_grad(LOSSES[label], logits.to(dtype), targets, delta)
        for got, _, _ in results:
            torch.testing.assert_close(got, value, rtol=tolerance, atol=tolerance, msg=what)
        got = torch.cat([grad for _, grad, _ in results])
        torch.testing.assert_close(got, world * grad, rtol=10 * tolerance, atol=tolerance, msg=what)
        collectives = [names for *_, names in results]
        assert all(names == collectives[0] for names in collectives), what
        wanted = ['all_gather', 'all_gather', 'all_reduce'] if (targets > 0).any() else ['all_gather']
        assert collectives[0] == wanted, what


def run_odd_ones():
    """One process's logits are not finite; half precision on one, single on the other, autocast; known positives."""
    rank = dist.get_rank()
    logits, targets = random_case(rank, 4, 30)
    broken = logits.index_fill(0, torch.tensor([5]), torch.nan) if rank else logits
    half = logits.to(torch.float32 if rank else torch.bfloat16)
    known = (targets > 0).nonzero().squeeze(1)
    results = {}
    for name, loss in LOSSES.items():
        results[f'{name} nan'] = value_and_grad(across(loss), broken, targets, 0.5)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            results[f'{name} half'] = value_and_grad(across(loss), half, targets, 0.5)
        results[f'{name} known'] = value_and_grad(across(loss, positives=known), logits, targets, 0.5)
    return results


def test_odd_ones():
    processes = on_processes(2, run_odd_ones)
    shards = [random_case(rank, 4, 30) for rank in range(2)]
    logits, targets = (torch.cat(parts) for parts in zip(*shards, strict=True))
    for name, loss in LOSSES.items():
        # Nobody goes on with a step that is spoilt for one.
        assert all(process[f'{name} nan'][0].isnan() for process in processes)
        mixed = torch.cat([shards[0][0].bfloat16().float(), shards[1][0].float()])
        for kind, inputs, tolerance in (('half', mixed, 2e-2), ('known', logits, 1e-9)):
            value, grad = value_and_grad(loss, inputs, targets, 0.5)
            for process in processes:
                torch.testing.assert_close(process[f'{name} {kind}'][0].to(value), value, rtol=1e-6, atol=1e-6)
            got = torch.cat([process[f'{name} {kind}'][1].to(grad) for process in processes])
            torch.testing.assert_close(got, 2 * grad, rtol=tolerance, atol=tolerance / 100)


def test_communication_does_not_depend_on_the_number_of_negatives():
    sizes = on_processes(2, run_bytes, 100, 20000)[0]
    few, many = sizes[: len(LOSSES)], sizes[len(LOSSES) :]
    assert few == many
    # 2 numbers for the counts, 2 per own positive, 2 per bucket: at most 2 P + 1 of them, P of both processes.
    assert all(size <= 8 * (2 + 2 * 50 + 2 * (2 * 100 + 1)) for size in many)


def run_in_groups():
    """Two groups of two, each ranked by itself."""
    groups = [dist.new_group(ranks) for ranks in ([0, 1], [2, 3])]
    logits, targets = random_case(dist.get_rank(), 6, 20)
    return value_and_grad(across(LOSSES['rs_loss'], groups[dist.get_rank() // 2]), logits, targets, 0.5)


def test_a_group_of_some_processes():
    processes = on_processes(4, run_in_groups)
    for members in ([0, 1], [2, 3]):
        shards = [random_case(rank, 6, 20) for rank in members]
        logits, targets = (torch.cat(parts) for parts in zip(*shards, strict=True))
        value, grad = value_and_grad(LOSSES['rs_loss'], logits, targets, 0.5)
        assert all(torch.isclose(processes[rank][0], value) for rank in members)
        torch.testing.assert_close(torch.cat([processes[rank][1] for rank in members]), 2 * grad)
