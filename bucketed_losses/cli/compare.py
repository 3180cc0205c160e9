"""``bucketed-losses compare``: train detectors with one loss after another and compare them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ._arguments import Values, add_cfg_options
from ._requirements import SLURM, require

if TYPE_CHECKING:
    from bucketed_losses.study.executors import Executor
    from bucketed_losses.study.plan import Plan

HELP = "Train one or more detectors with one loss after another, and compare the losses as the paper's tables do."
DESCRIPTION = """
A CONFIG has the detector's own losses ('stock'). It is a file or a name such as
mmdet::atss/atss_r50_fpn_1x_coco.py. The other losses are put into it as 'swap' does. Data, budget, schedule and seed
are the same for all losses. With --lr-factors, the learning rate of each loss is chosen first. A study has five steps:

    1. with --lr-factors, train with each learning rate and choose the one with the highest AP
    2. measure the time of an iteration and of the losses; the losses of a detector take turns
    3. train all runs; the first seed of every loss comes first
    4. measure the gradient of every loss on the same logits, early, middle and late in the training
    5. write STUDY/study.csv, study.md and figures, which are also updated after every run

A study can be stopped or killed at any time. The same command continues it and does not repeat finished runs. Other
commands with the same STUDY add to it, for example other losses for another detector. A run that diverges is recorded
as diverged, and the study continues. If a run fails for another reason, the next command tries it again. The exit
status is 0 if every run finished or diverged, 1 if a run failed, and 130 if the study was stopped.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.description = f'{HELP}\n{DESCRIPTION}'
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('study', type=Path, metavar='STUDY', help='folder of the study; it is created if it is missing')
    parser.add_argument(
        '--detectors',
        nargs='+',
        action=Values,
        metavar='[NAME=]CONFIG',
        required=True,
        help='train the detectors of these configs',
    )
    parser.add_argument(
        '--data',
        type=Path,
        metavar='DATA_CONFIG',
        help='replace the data set, loaders, evaluators and number of classes of the detectors by those of this config',
    )
    parser.add_argument(
        '--losses',
        nargs='+',
        action=Values,
        default=['stock', 'rs', 'brs'],
        metavar='LOSS',
        help='compare these losses: stock, ap, bap, rs, brs, alrp, dr, or NAME=CONFIG, a config of the detector that '
        'already has another loss or other settings (default: stock rs brs)',
    )
    parser.add_argument(
        '--seeds',
        nargs='+',
        action=Values,
        default=['0'],
        metavar='[LOSS=]SEED[,SEED...]',
        help='set the seeds of all losses, or of one loss: 0 stock=0,1,2 brs=0,1,2 (default: 0)',
    )
    parser.add_argument(
        '--epochs',
        type=int,
        metavar='N',
        help='train every run for N epochs, or N iterations if the config counts iterations; schedules are stretched '
        '(default: as in the configs)',
    )
    parser.add_argument(
        '--lr-factors',
        nargs='+',
        action=Values,
        default=[],
        metavar='[LOSS=]X[,X...]',
        help='choose the learning rate of each detector and loss by AP: multiply that of the config by these factors '
        'and train once with each, for example 0.33,1,3. LOSS=0.1,0.33,1,3 is the grid of one loss. A single factor, '
        'such as stock=0.33, is taken without a trial',
    )
    parser.add_argument(
        '--tuning-seed',
        type=int,
        default=100,
        metavar='SEED',
        help='set the seed of the runs of --lr-factors (default: 100)',
    )
    parser.add_argument(
        '--tuning-epochs',
        type=int,
        metavar='N',
        help='train the runs of --lr-factors for N epochs (or iterations), with the schedule of such a training '
        '(default: as long as the other runs)',
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
        help='train each run on N processes, started by torchrun (default: 1). If N is above 1, the learning rate is '
        'multiplied by (N x images per process) / auto_scale_lr.base_batch_size. If the config lacks this setting, '
        'the learning rate is not scaled, and a message says so',
    )
    parser.add_argument(
        '--executor',
        choices=['local', 'slurm'],
        default='local',
        help='train on this machine (local), or in Slurm jobs that submitit submits (default: local)',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        metavar='N',
        help='train N runs at once (default: 1 on this machine, all on Slurm). Times are measured before, one by one',
    )
    parser.add_argument(
        '--slurm',
        nargs='+',
        action=Values,
        default=[],
        metavar='KEY=VALUE',
        help="set parameters of the Slurm jobs, with submitit's names: partition=gpu time=240 (minutes) account=NAME "
        'cpus_per_task=8 mem_gb=32. The default of gpus_per_node is the N of --gpus. If a run needs more time, it '
        'saves a checkpoint and is put back into the queue',
    )
    parser.add_argument(
        '--time-iterations',
        type=int,
        default=10,
        metavar='N',
        help='report the median time of N iterations (default: 10)',
    )
    add_cfg_options(parser, 'override settings of all configs')


def run(args: argparse.Namespace) -> None:
    """Run the study, and exit with its status."""
    if args.executor == 'slurm':
        require(SLURM)
    from mmengine.logging import MMLogger

    from bucketed_losses.study.run import run_study

    # Each time it reads a config, MMEngine logs the environment variables in it. The logs of the runs have them, too.
    MMLogger.get_current_instance().setLevel('WARNING')
    plan = plan_from(args)
    raise SystemExit(run_study(plan, lambda lock: executor_from(args, plan, lock)))


def plan_from(args: argparse.Namespace) -> Plan:
    """What the command runs.

    Raises:
        Refusal: an argument has a wrong value.
    """
    from bucketed_losses.mmdet.engine.runner import parse_options
    from bucketed_losses.mmdet.swap import LOSSES
    from bucketed_losses.study.plan import STOCK, Plan, parse_detector, parse_factors, parse_losses, parse_seeds

    losses, configs = parse_losses(args.losses, [STOCK, *LOSSES])
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
        configs=configs,
        epochs=args.epochs,
        lr_factors=parse_factors(args.lr_factors, losses),
        tuning_seed=args.tuning_seed,
        tuning_epochs=args.tuning_epochs,
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

    return SlurmExecutor(plan.folder / 'slurm', parse_options(args.slurm, '--slurm'), args.jobs, plan.gpus)
