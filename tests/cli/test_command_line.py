"""The verbs of ``bucketed-losses``: what they have in common, their old spellings, and the tools that call them."""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip('mmdet')

from command_line import command, run_verb

from bucketed_losses.cli.main import VERBS, build_parser, main
from bucketed_losses.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ('analysis_tools', 'dataset_converters', 'model_converters')
ENTRY_POINTS = sorted(path for folder in FOLDERS for path in (ROOT / 'tools' / folder).glob('*.py'))
CONFIG = str(ROOT / 'configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py')
ATSS = 'mmdet::atss/atss_r50_fpn_1x_coco.py'


@pytest.mark.parametrize('name', VERBS)
def test_every_verb_explains_itself_and_its_arguments(name):
    module = import_module(f'bucketed_losses.cli.{VERBS[name].module}')
    assert module.HELP.endswith('.') and callable(module.run)
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    for action in parser._actions:
        assert action.help or action.dest == 'local_rank', f'{name} {action.dest}'
    with pytest.raises(SystemExit) as end:
        build_parser(name).parse_args([name, '--help'])
    assert end.value.code == 0


@pytest.mark.parametrize(
    ('arguments', 'out'),
    [
        (['swap', ATSS, '--out', 'a.py'], 'a.py'),
        (['swap', ATSS, '-o', 'a.py'], 'a.py'),
        (['swap', ATSS], None),
        (['calibrate', CONFIG, 'a.pth', '--out', 'folder'], 'folder'),
        (['calibrate', CONFIG, 'a.pth', '--out-dir', 'folder'], 'folder'),
        (['calibrate', CONFIG, 'a.pth'], None),
        (['demo', '--out', 'folder'], 'folder'),
        (['demo', '--work-dir', 'folder'], 'folder'),
        (['demo'], 'work_dirs/demo'),
    ],
)
def test_the_place_of_results_has_one_name_and_old_names_still_work(arguments, out, capsys):
    parser = build_parser(arguments[0])
    assert parser.parse_args(arguments).out == (out and Path(out))
    with pytest.raises(SystemExit):
        parser.parse_args([arguments[0], '--help'])
    shown = capsys.readouterr().out
    assert '--out ' in shown and '-o ' not in shown and '--out-dir' not in shown


@pytest.mark.parametrize('name', VERBS)
def test_an_option_that_is_given_again_adds_to_its_values(name):
    parser = argparse.ArgumentParser()
    import_module(f'bucketed_losses.cli.{VERBS[name].module}').add_arguments(parser)
    for action in parser._actions:
        action.required = False
        if action.option_strings and action.nargs == '+' and action.help != argparse.SUPPRESS:
            option, again = action.option_strings[0], argparse.ArgumentParser()
            again._add_action(action)
            first, both = (
                getattr(again.parse_args(words), action.dest)
                for words in ([option, 'a=1', 'b=2'], [option, 'a=1', option, 'b=2'])
            )
            assert first == both and len(first) == 2, f'{name} {option}'


@pytest.mark.parametrize(
    ('arguments', 'file'),
    [
        (['plot-ranks', CONFIG, 'a.pth', '--out', 'a.png'], 'a.png'),
        (['calibrate', CONFIG, 'a.pth', '--out', '.'], f'{Path(CONFIG).stem}_calibrated.py'),
        (['convert', 'published', CONFIG, 'a.pth', '--out', 'b.pth'], 'b.pth'),
        (['swap', ATSS, '--out', 'a.py'], 'a.py'),
    ],
)
def test_files_that_exist_are_not_overwritten(arguments, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(file).write_text('precious')
    with pytest.raises(UserError, match='exists already; --force overwrites it'):
        run_verb(*arguments)
    assert Path(file).read_text() == 'precious'


def test_an_error_is_one_line_and_a_traceback_with_debug(tmp_path):
    (tmp_path / 'a.py').touch()
    swap = command('swap', ATSS, '--out', tmp_path / 'a.py')
    plain, debug = (
        subprocess.run([*swap, *more], capture_output=True, text=True, cwd=ROOT) for more in ([], ['--debug'])
    )
    assert plain.returncode == 2 and 'Traceback' not in plain.stderr
    last = plain.stderr.splitlines()[-1]  # packages of others warn
    assert last == f'bucketed-losses: error: {tmp_path}/a.py exists already; --force overwrites it'
    assert debug.returncode == 1 and 'Traceback' in debug.stderr


def test_an_unknown_verb_is_answered_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as end:
        main(['swop'])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "invalid choice: 'swop'" in error and all(name in error for name in VERBS)


@pytest.mark.parametrize('file', ENTRY_POINTS, ids=lambda path: path.name)
def test_tools_call_their_verb(file, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [str(file), '--help'])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(file), run_name='__main__')
    assert end.value.code == 0 and 'usage: bucketed-losses ' in capsys.readouterr().out
    assert len(file.read_text().splitlines()) < 12
