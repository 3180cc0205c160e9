"""Rows of the paper, their jobs, and results compared with the paper's."""

from __future__ import annotations

import json
import re
import shlex
import statistics
import subprocess
from pathlib import Path

import pytest

pytest.importorskip('mmdet')

from command_line import command, run_verb

from bucketed_losses.errors import UserError
from bucketed_losses.paper import figures
from bucketed_losses.reproduce.outcome import read_outcome
from bucketed_losses.reproduce.rows import read_row, row_configs
from bucketed_losses.reproduce.tables import compare, list_rows, results, tolerance

ROOT = Path(__file__).resolve().parents[2]
ROWS = [Path(config).name for config in row_configs()]
ATSS = 'atss_r50_fpn_brs_4xb4-1x_coco'


def dry_run(capsys, row, *arguments):
    run_verb('reproduce', row, '--dry-run', *arguments)
    described, job = capsys.readouterr().out.split('\n  data: ')
    return described, job.split('\n', 1)[1].removeprefix('  starts').strip()


@pytest.fixture(scope='module')
def rows():
    return {name: read_row(name) for name in ROWS}


def test_there_is_a_row_for_every_config_with_a_figure():
    assert {f.config for f in figures(source='paper')} - {''} == set(row_configs()) and len(ROWS) == len(set(ROWS)) > 30


@pytest.mark.parametrize('name', ROWS)
@pytest.mark.parametrize('launcher', ['none', 'pytorch', 'slurm'])
def test_dry_run_of_every_row(name, launcher, capsys, rows):
    """As many processes as the learning rate is for; one process has it scaled, and says so."""
    row = rows[name]
    folder, images = re.search(r'_(\d)xb(\d)-', name).groups()
    assert (row.gpus, row.images) == (int(folder), int(images)), "the config's name has its GPUs and images"
    more = ['--partition', 'gpu'] if launcher == 'slurm' else []
    described, job = dry_run(capsys, name, '--launcher', launcher, *more)
    gpus = 1 if launcher == 'none' else row.gpus
    assert f'{gpus} GPU' in described and f'{row.epochs} epochs' in described
    if row.ap:
        assert f'{row.ap.metric} {row.ap.value}' in described
    if row.seconds:
        assert f'{row.seconds.value} s per iteration' in described
    scaled = launcher == 'none'
    assert ('--auto-scale-lr' in job) == scaled == ('learning rate is scaled' in described)
    if scaled:
        assert f'learning rate {row.learning_rate / row.gpus:g}\n' in described
    words = shlex.split(job.splitlines()[-1])
    config = next(word for word in words if word.endswith('.py') and 'configs' in word)
    assert Path(config).samefile(ROOT / f'configs/{row.config}.py')
    assert '--resume' in words
    if launcher == 'pytorch':
        script = next(index for index, word in enumerate(words) if word.endswith('tools/dist_train.sh'))
        assert words[script + 1 : script + 3] == [config, str(row.gpus)]
    if launcher == 'slurm':
        for line in (f'--ntasks={row.gpus}', f'--gres=gpu:{row.gpus}', '--nodes=1', '--partition=gpu'):
            assert f'#SBATCH {line}\n' in job
        assert f'GPUS={row.gpus}' in words and f'GPUS_PER_NODE={row.gpus}' in words
        assert words[words.index('gpu') + 1 : words.index('gpu') + 3] == [name, config]


@pytest.mark.parametrize(
    ('gpus', 'rate', 'nodes', 'on_node'), [(8, '0.016', 1, 8), (2, '0.004', 1, 2), (16, '0.032', 4, 4)]
)
def test_other_numbers_of_gpus_scale_the_learning_rate(gpus, rate, nodes, on_node, capsys):
    more = ['--gpus-per-node', '4'] if on_node == 4 else []
    more += ['--sbatch', 'time=24:00:00', 'cpus-per-task=9', '--data-root', '/data/coco 17']
    described, job = dry_run(capsys, ATSS, '--launcher', 'slurm', '--partition', 'a', '--gpus', gpus, *more)
    assert (
        f'learning rate {rate}\n' in described
        and f'from 0.008, which is for 16 images, to {4 * gpus} images' in described
    )
    for line in (f'nodes={nodes}', f'ntasks={gpus}', f'gres=gpu:{on_node}', 'time=24:00:00', 'cpus-per-task=9'):
        assert f'#SBATCH --{line}\n' in job
    words = shlex.split(job.splitlines()[-1])
    assert f'GPUS={gpus}' in words and 'CPUS_PER_TASK=9' in words
    assert words[-3:] == ['--auto-scale-lr', '--cfg-options', 'data_root=/data/coco 17']


def test_the_learning_rate_of_the_job_is_mmengines(tmp_path):
    """--auto-scale-lr multiplies by what the job says: MMEngine's own scaling, run on the row's settings."""
    import torch
    from mmengine.optim import OptimWrapper
    from mmengine.runner import Runner

    from bucketed_losses.reproduce.job import Job

    row = read_row(ATSS)
    job = Job(row, 'pytorch', 2, tmp_path)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=row.learning_rate)
    runner = Runner.__new__(Runner)
    runner._world_size, runner._train_dataloader = job.gpus, {'batch_size': row.images}
    scaling = dict(enable=True, base_batch_size=row.base_batch_size)
    Runner.scale_lr(runner_with_logger(runner), OptimWrapper(optimizer), scaling)
    assert optimizer.param_groups[0]['lr'] == pytest.approx(job.learning_rate) == 0.004


def runner_with_logger(runner):
    from mmengine.logging import MMLogger

    runner.param_schedulers = None  # none is built yet
    runner.logger = MMLogger.get_instance('scale')
    return runner


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], 'name a ROW'),
        (['atss_r50_fpn_brs_4xb4_coco'], f"no row 'atss_r50_fpn_brs_4xb4_coco'; did you mean '{ATSS}'"),
        ([ATSS, '--gpus', '2'], '--launcher none starts one process, got --gpus 2'),
        ([ATSS, '--gpus', '0', '--launcher', 'pytorch'], '--gpus must be 1 or more'),
        ([ATSS, '--launcher', 'slurm'], 'needs --partition'),
        ([ATSS, '--launcher', 'slurm', '--partition', 'a', '--gpus', '12'], 'must be a multiple of the 8'),
        ([ATSS, '--sbatch', 'time'], "--sbatch takes KEY=VALUE, such as time=24:00:00; got 'time'"),
        ([ATSS, '--launcher', 'slurm', '--gpus-per-node', '0'], '--gpus-per-node must be 1 or more, got 0'),
        (
            [ATSS, '--cfg-options', 'train_dataloader.batch_size=abc'],
            "--cfg-options: train_dataloader.batch_size must be a whole number, 1 or more, got 'abc'",
        ),
        ([ATSS, '--cfg-options', 'train_cfg=3'], 'train_cfg.max_epochs must be a whole number, 1 or more, got None'),
        ([ATSS, '--cfg-options', 'optim_wrapper.optimizer.lr=0'], 'lr must be a number above 0, got 0'),
        ([ATSS, '--report'], 'has no evaluated epoch yet'),
        (['--report'], 'has no run of a row'),
    ],
)
def test_errors_say_what_to_write(arguments, words, tmp_path):
    with pytest.raises(UserError, match=re.escape(words)):
        run_verb('reproduce', *arguments, '--dry-run', '--out', tmp_path)


def test_more_images_on_a_gpu_than_the_learning_rate_is_for(capsys):
    more = ['--cfg-options', 'train_dataloader.batch_size=32', '--data-root', '/d,ata']
    described, job = dry_run(capsys, ATSS, '--launcher', 'pytorch', *more)
    assert '1 GPU x 32 images' in described and 'from 0.008, which is for 16 images, to 32 images' in described
    assert read_row(ATSS, ['data_root=/d,ata']).data_root == '/d,ata/'
    assert shlex.split(job)[1] == 'bash', 'a file of a wheel may have lost its execute bit'


def test_a_batch_script_has_quotes_where_sbatch_needs_them(tmp_path, capsys):
    more = ['--out', tmp_path / 'a dir', '--sbatch', 'comment="two words"', 'mail-user=me #1', 'constraint=a|b']
    _, job = dry_run(capsys, ATSS, '--launcher', 'slurm', '--partition', 'a', *more)
    output = f"output='{tmp_path}/a dir/{ATSS}/slurm-%j.out'"
    for line in (output, 'comment="two words"', "mail-user='me #1'", 'constraint=a|b'):
        assert f'#SBATCH --{line}\n' in job


@pytest.mark.parametrize('out', ['/proc/below', 'a_file'])
def test_a_batch_script_that_cannot_be_written(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('a_file').touch()
    with pytest.raises(UserError, match=r'cannot be written to /proc|cannot write files to /proc|a_file is a file'):
        run_verb('reproduce', ATSS, '--launcher', 'slurm', '--partition', 'a', '--out', out)


def write_logs(folder, epochs, last, times=(9.0, 0.2, 0.2, 0.3), device='NVIDIA A100-SXM4-80GB'):
    """Logs as MMEngine writes them."""
    data = folder / '20260101_000000/vis_data'
    data.mkdir(parents=True)
    records = [dict(step=10 * i + 1, epoch=1, loss=1.0, time=time) for i, time in enumerate(times)]
    records += [{'step': epoch, **last} for epoch in range(1, epochs + 1)]
    (data / 'scalars.json').write_text('\n'.join(map(json.dumps, records)))
    (data.parent / 'run.log').write_text(f'System environment:\n    GPU 0,1,2,3: {device}\n' if device else '')


def test_a_finished_run_is_compared_with_the_paper(tmp_path, capsys, rows):
    write_logs(tmp_path / ATSS, 12, {'coco/bbox_mAP': 0.401, 'coco/bbox_mAP_50': 0.589})
    run_verb('reproduce', ATSS, '--out', tmp_path)  # nothing is trained again
    out = capsys.readouterr().out
    assert f'{ATSS} after 12 of 12 epochs, on NVIDIA A100-SXM4-80GB' in out
    assert re.search(r'box AP +40\.1 +39\.8 +\+0\.3, within the ±0\.3 to expect', out)
    assert re.search(r's/iter +0\.20 +0\.15 +1\.33 times', out)
    write_logs(tmp_path / 'far' / ATSS, 3, {'coco/bbox_mAP': 0.394})
    run_verb('reproduce', ATSS, '--out', tmp_path / 'far', '--report')
    out = capsys.readouterr().out
    assert 'after 3 of 12 epochs, not finished' in out and '-0.4, outside of the ±0.3' in out


def test_a_log_without_times(tmp_path, capsys):
    write_logs(tmp_path / ATSS, 12, {'coco/bbox_mAP': 0.401})
    (log,) = (tmp_path / ATSS).rglob('scalars.json')
    log.write_text(re.sub(r', "time": [\d.]+', '', log.read_text()))
    for arguments, words in (([ATSS], r's/iter +- +0\.15\n'), ([], r'\| 12 \| - \| 0\.15 \|')):
        run_verb('reproduce', *arguments, '--report', '--out', tmp_path)
        assert re.search(words, capsys.readouterr().out)


def test_masks_and_boxes_are_not_mixed_up(tmp_path, rows):
    """Cityscapes' own mAP is neither; LVIS has other names; a run that detects nothing logs no AP."""
    brs = next(name for name in ROWS if 'cityscapes' in name and '_brs_' in name)
    last = {'coco/bbox_mAP': 0.4, 'coco/segm_mAP': 0.35, 'cityscapes/mAP': 0.33, 'cityscapes/AP@50': 0.6}
    write_logs(tmp_path / 'city', 12, last, device='')
    outcome = read_outcome(tmp_path / 'city')
    assert outcome.ap == {'box AP': 40.0, 'mask AP': 35.0} and outcome.device == 'CPU'
    text = compare(rows[brs], outcome)
    assert re.search(r'box AP +40\.0 +43\.3  -3\.3; no tolerance is known', text) and re.search(
        r'mask AP +35\.0 +-', text
    )
    write_logs(tmp_path / 'lvis', 12, {'lvis/bbox_AP': 0.25, 'lvis/bbox_APr': 0.1, 'lvis/segm_AP': 0.24})
    assert read_outcome(tmp_path / 'lvis').ap == {'box AP': 25.0, 'mask AP': 24.0}
    write_logs(tmp_path / 'nothing', 1, {'data_time': 0.1})
    assert read_outcome(tmp_path / 'nothing').ap == {'box AP': 0.0}
    assert read_outcome(tmp_path / 'no such folder') is None


def test_the_report_has_the_layout_of_the_papers_tables(tmp_path, capsys):
    mask = 'mask-rcnn_r50_fpn_brs_4xb4-1x_coco'
    write_logs(tmp_path / ATSS, 12, {'coco/bbox_mAP': 0.398})
    write_logs(tmp_path / mask, 6, {'coco/bbox_mAP': 0.3, 'coco/segm_mAP': 0.28})
    run_verb('reproduce', '--report', '--out', tmp_path)
    head, _, *lines = capsys.readouterr().out.splitlines()
    columns = [[cell.strip() for cell in line.strip('|').split('|')] for line in (head, *lines)]
    assert columns[1] == ['Table 1, Table 7, Table 8', 'ATSS', 'R-50', 'BRS', 'COCO', '12', '0.20', '0.15', '39.8',
                          '39.8 (box)', '+0.0', 'NVIDIA A100-SXM4-80GB']  # fmt: skip
    assert columns[2][5:11] == ['6 of 12', '0.20', '0.24', '28.0', '36.2 (mask)', '-8.2']
    assert len(columns[0]) == len(columns[1]) and 'T_iter (s)' in columns[0]


def test_the_tolerance_is_two_deviations_of_the_published_logs():
    runs = [float(f.value) for f in figures(config=f'atss/{ATSS}', metric='box AP', source='log')]
    assert len(runs) == 3 and tolerance('COCO') == round(2 * statistics.stdev(runs), 1)
    assert tolerance('LVIS') is None and tolerance('Cityscapes') is None


def test_slurm_jobs_are_submitted_as_shown(tmp_path, monkeypatch, capsys):
    (tmp_path / 'bin').mkdir()
    fake = tmp_path / 'bin/sbatch'
    fake.write_text('#!/bin/sh\nprintf "job 17: %s\\n" "$2"\n')
    fake.chmod(0o755)
    arguments = [ATSS, '--launcher', 'slurm', '--partition', 'gpu', '--out', tmp_path / 'out']
    _, job = dry_run(capsys, *arguments)
    environment = {'PATH': f'{tmp_path / "bin"}:/usr/bin:/bin', 'PYTHONPATH': str(ROOT)}
    result = subprocess.run(
        command('reproduce', *arguments), env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    script = tmp_path / 'out' / ATSS / 'job.sbatch'
    assert f'job 17: {script}' in result.stdout and 'submitted; ' in result.stdout, result.stderr
    assert script.read_text() == job + '\n'
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(UserError, match='sbatch is not on this machine'):
        run_verb('reproduce', *arguments)


def test_the_page_has_the_list(rows):
    page = (ROOT / 'docs/reproduce.md').read_text()
    table = re.search(r'<!-- begin: bucketed-losses reproduce --list -->\n(.*?)\n<!-- end -->', page, re.DOTALL)[1]
    assert table == list_rows(rows.values()), 'put the output of "bucketed-losses reproduce --list" there'


def test_results_of_nothing_are_a_table_without_rows():
    assert len(results({}).splitlines()) == 2
