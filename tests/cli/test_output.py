"""What commands print besides their results, and how Ctrl-C ends them."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import warnings

import pytest

from bucketed_losses import terminal
from bucketed_losses.library_warnings import hide_harmless_warnings

pytestmark = pytest.mark.stack

HANGS = """
import atexit, threading, time
from bucketed_losses.errors import one_line_errors
atexit.register(lambda: threading.Event().wait(600))

@one_line_errors
def main():
    print('running', flush=True)
    time.sleep(600)

main()
"""


def test_a_second_ctrl_c_ends_a_command_that_hangs():
    process = subprocess.Popen(
        [sys.executable, '-c', HANGS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell ignores the signal in what it starts in the background, and a test runner may be that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout.readline() == 'running\n'
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == '\n' and process.stderr.readline() == '-c: stopped\n'
        assert process.poll() is None
        # The handler is in place an instant after the line.
        for _ in range(600):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                continue
        assert process.returncode == -signal.SIGINT
    finally:
        process.kill()
        process.communicate()


def test_harmless_warnings_are_hidden_and_others_are_not():
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        hide_harmless_warnings()
        warnings.warn('pkg_resources is deprecated as an API. See ...', UserWarning, stacklevel=1)
        warnings.warn('Warning: The bbox is out of bounds, the drawn bbox may not be in the image', stacklevel=1)
        warnings.warn('DeprecationWarning: `num_anchors` is deprecated, for consistency ...', stacklevel=1)
        warnings.warn('faster_coco_eval is not installed, metrics ...', stacklevel=1)
        compile('"\\ "', '/environment/mmdet/models/a.py', 'exec')
        warnings.warn('the loss is NaN', stacklevel=1)
        compile('"\\ "', '/home/user/config.py', 'exec')
    shown = [(str(warning.message), warning.filename) for warning in seen]
    assert shown[0] == ('the loss is NaN', __file__) and {name for _, name in shown[1:]} <= {'/home/user/config.py'}


def test_a_warning_that_no_filter_hides_is_hidden():
    code = (
        'import warnings; from bucketed_losses.library_warnings import hide_harmless_warnings; '
        'hide_harmless_warnings(); hide_harmless_warnings(); warnings.simplefilter("always"); '
        'warnings.warn("`Torch" "Script` support for functional optimizers is deprecated and will ..."); '
        'warnings.warn("another", DeprecationWarning)'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    # Python 3.13 shows the line of the code, too.
    assert 'another' in result.stderr and 'TorchScript' not in result.stderr


def test_the_user_can_see_harmless_warnings():
    """``python -W`` goes first."""
    code = (
        'import warnings; from bucketed_losses.library_warnings import hide_harmless_warnings; '
        'hide_harmless_warnings(); warnings.warn("pkg_resources is deprecated as an API")'
    )
    for flags, shown in (([], False), (['-W', 'always'], True)):
        result = subprocess.run([sys.executable, *flags, '-c', code], capture_output=True, text=True, check=True)
        assert ('pkg_resources' in result.stderr) == shown


def test_importing_the_package_hides_nothing():
    code = (
        'import warnings; before = list(warnings.filters); import bucketed_losses, bucketed_losses.library_warnings; '
        'assert warnings.filters == before'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_a_command_prints_no_warning_of_another_library():
    pytest.importorskip('mmdet')
    command = ['-m', 'bucketed_losses', 'swap', 'mmdet::atss/atss_r50_fpn_1x_coco.py']
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 'Warning' not in result.stderr, result.stderr


def test_quiet_prints_results_only(tmp_path):
    pytest.importorskip('mmdet')
    command = [sys.executable, '-m', 'bucketed_losses', 'shapes', '--num-train', '2', '--num-val', '1', '--out']
    for flags in ([], ['--quiet']):
        folder = tmp_path / f'shapes{len(flags)}'
        result = subprocess.run([*command, folder, *flags], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        # Not a terminal: no bar, whether quiet or not.
        # OneDL's MMDetection prints lines of its own when it is imported.
        lines = [line for line in result.stdout.splitlines() if 'OneDL' not in line]
        assert lines == [f'Drawn shapes are in {folder}'] and result.stderr == ''


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    pytest.importorskip('mmdet')
    from command_line import run_verb

    from bucketed_losses.errors import UserError

    monkeypatch.chdir(tmp_path)
    for out in ('.', tmp_path):
        with pytest.raises(UserError, match=rf'{out} is the current folder, which cannot be replaced; give the name'):
            run_verb('shapes', '--num-train', '2', '--num-val', '1', '--out', out)
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_sees_a_bar_that_goes_away(monkeypatch):
    pytest.importorskip('rich')

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for quiet in (False, True):
        screen = Terminal()
        monkeypatch.setattr(sys, 'stderr', screen)
        monkeypatch.setattr(terminal, '_quiet', quiet)
        assert list(terminal.progress_bar([1, 2, 3], 'drawing images')) == [1, 2, 3]
        assert ('drawing images' in screen.getvalue()) == (not quiet)
    monkeypatch.undo()
    assert list(terminal.progress_bar(iter('ab'), 'letters', 2)) == ['a', 'b']


def test_quiet_hides_lines_of_progress(capsys, monkeypatch):
    terminal.say('working')
    monkeypatch.setattr(terminal, '_quiet', True)
    terminal.say('still working')
    assert capsys.readouterr().out == 'working\n'
