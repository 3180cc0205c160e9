"""``bucketed-losses compare``: train detectors with one loss after another and compare them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ._requirements import SLURM, require

if TYPE_CHECKING:
    from bucketed_losses.study.executors import Executor
    from bucketed_losses.study.plan import Plan

HELP = "Train one detector, or several, with one loss after another, and compare them as the paper's tables do."
DESCRIPTION = """
A CONFIG has the detector's own losses ('stock'). It is a file or a name such as
mmdet::atss/atss_r50_fpn_1x_coco.py. All other losses are put into it as 'swap' does, and nothing else differs: data,
budget, schedule and seed are the same. A study has four steps:

    1. measure the time of an iteration and of the losses; the losses of a detector take turns
    2. train all runs; the first seed of every loss comes first
    3. measure the gradient of every loss on the same logits, early, middle and late in the training
    4. write STUDY/study.csv, study.md and figures, which are also updated after every run

A study can be stopped or killed at any time. The same command goes on where it was, and nothing that is finished runs
again. Other commands with the same STUDY add to it, for example other losses for another detector. A run that
diverges is recorded as diverged, and the study goes on. A run that fails for another reason is tried again by the next
command. The exit status is 0 if every run finished or diverged, 1 if a run failed, 130 if the study was stopped.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.description = f'{HELP}\n{DESCRIPTION}'
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('study', type=Path, metavar='STUDY', help='folder of the study; it is created if it is missing')
    parser.add_argument(
        '--detectors', nargs='+', metavar='[NAME=]CONFIG', required=True, help='configs of the detectors to compare'
    )
    parser.add_argument(
        '--data',
        type=Path,
        metavar='DATA_CONFIG',
        help='a config whose data set, loaders, evaluators and number of classes replace those of the detectors',
    )
    parser.add_argument(
        '--losses',
        nargs='+',
        default=['stock', 'rs', 'brs'],
        metavar='LOSS',
        help='the losses to compare: stock, ap, bap, rs, brs, alrp, dr (default: stock rs brs)',
    )
    parser.add_argument(
        '--seeds',
        nargs='+',
        default=['0'],
        metavar='[LOSS=]SEED[,SEED...]',
        help='seeds of all losses, or of one loss: 0 stock=0,1,2 brs=0,1,2 (default: 0)',
    )
    parser.add_argument(
        '--equal-time',
        action='store_true',
        help='also train BRS for as long as RS would take with the published loop over positives',
    )
    parser.add_argument(
        '--gpus',
        type=int,
        default=1,
        metavar='N',
        help='processes of each training, started by torchrun. With more than 1, the learning rate is multiplied by '
        '(N x images per process) / auto_scale_lr.base_batch_size; without this setting in the config it is not '
        'scaled, and a message says so',
    )
    parser.add_argument(
        '--executor',
        choices=['local', 'slurm'],
        default='local',
        help='where to train: on this machine, or as Slurm jobs, submitted by submitit (default: local)',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        metavar='N',
        help='train N runs at once (default: 1 on this machine, all on Slurm); times are measured before, alone',
    )
    parser.add_argument(
        '--slurm',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help="parameters of the Slurm jobs, with submitit's names: partition=gpu time=240 (minutes) account=NAME "
        'cpus_per_task=8 mem_gb=32. gpus_per_node is the N of --gpus unless it is given. A training that needs more '
        'time saves a checkpoint and is put back into the queue',
    )
    parser.add_argument(
        '--time-iterations',
        type=int,
        default=10,
        metavar='N',
        help='iterations whose median time is reported (default: 10)',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='settings of all configs to change'
    )


def run(args: argparse.Namespace) -> None:
    """Run the study, and exit with its status."""
    if args.executor == 'slurm':
        require(SLURM)
    from bucketed_losses.study.run import run_study

    plan = plan_from(args)
    raise SystemExit(run_study(plan, lambda lock: executor_from(args, plan, lock)))


def plan_from(args: argparse.Namespace) -> Plan:
    """What the command runs.

    Raises:
        Refusal: an argument has a wrong value.
    """
    from bucketed_losses.mmdet.engine.runner import parse_options
    from bucketed_losses.mmdet.swap import LOSSES
    from bucketed_losses.study.plan import STOCK, Plan, parse_detector, parse_losses, parse_seeds

    losses = parse_losses(args.losses, [STOCK, *LOSSES])
    return Plan(
        folder=args.study.resolve(),
        detectors=[parse_detector(text) for text in args.detectors],
        losses=losses,
        seeds=parse_seeds(args.seeds, losses),
        data=args.data,
        options=parse_options(args.cfg_options),
        equal_time=args.equal_time,
        gpus=args.gpus,
        time_iterations=args.time_iterations,
    )


def executor_from(args: argparse.Namespace, plan: Plan, lock: TextIO) -> Executor:
    """Where the command runs it.

    Raises:
        Refusal: ``--jobs``, ``--slurm`` or ``--executor`` has a wrong value.
    """
    from bucketed_losses.mmdet.engine.runner import parse_options
    from bucketed_losses.study.executors import LocalExecutor
    from bucketed_losses.study.plan import Refusal

    if args.executor == 'local':
        if args.slurm:
            raise Refusal('--slurm needs --executor slurm')
        return LocalExecutor(lock, 1 if args.jobs is None else args.jobs, plan.gpus)
    from bucketed_losses.study.slurm import SlurmExecutor

    return SlurmExecutor(plan.folder / 'slurm', parse_options(args.slurm), args.jobs, plan.gpus)
