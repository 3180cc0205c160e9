"""The tutorials: their stored outputs are complete and clean, and each of them runs from top to bottom."""

from __future__ import annotations

import base64
import copy
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / 'docs/tutorials').glob('*.ipynb'))}
MOST_OF_AN_IMAGE, MOST_OF_A_NOTEBOOK = 100_000, 600_000  # bytes

# Of each tutorial, patterns of its text outputs with one number each, and the range of that number.
RESULTS = {
    'swap_the_loss': {
        r'focal, epoch 5: AP (\S+)': (0.2, 1.0),
        r'BRS, epoch 5: AP (\S+)': (0.2, 1.0),
    },
    'plain_pytorch': {
        r'focal +AP (\S+)': (0.2, 1.0),
        r'BRS +AP (\S+)': (0.2, 1.0),
    },
    'calibrate': {
        r'as trained .* D-ECE (\S+)': (0.2, 1.0),
        r'calibrated, unseen images .* D-ECE (\S+)': (0.0, 0.08),
        r'new images\n.* precision (\S+)\n': (0.75, 1.0),
    },
}


def read(name):
    return json.loads(NOTEBOOKS[name].read_text())


def joined(text):
    """Text of a notebook, which may be a list of lines."""
    return text if isinstance(text, str) else ''.join(text)


def outputs(notebook):
    """``(cell, output)`` of all outputs."""
    for cell in notebook['cells']:
        for output in cell.get('outputs', ()):
            yield cell, output


def images(notebook):
    """``(cell, bytes)`` of all images."""
    for cell, output in outputs(notebook):
        for kind, content in output.get('data', {}).items():
            if kind.startswith('image/'):
                yield cell, base64.b64decode(joined(content))


def printed(notebook):
    """What the cells print."""
    return ''.join(joined(output['text']) for _, output in outputs(notebook) if output['output_type'] == 'stream')


def faults_of(notebook):
    """What is wrong with the stored outputs."""
    found = []
    code = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
    if [cell['execution_count'] for cell in code] != list(range(1, len(code) + 1)):
        found.append('not executed from top to bottom')
    for cell, output in outputs(notebook):
        text = joined(output.get('text', ''))
        if output['output_type'] == 'error':
            found.append(f'error {output["ename"]}')
        if output.get('name') == 'stderr':
            found.append(f'output on stderr: {text}')
        found += [f'absolute path {path}' for path in re.findall(r'(?<![\w.:/])(?:~|/\w[\w.-]*)/\S*', text)]
        if 'warning' in text.lower():
            found.append(f'warning: {text}')
        if 'execution' in cell['metadata']:
            found.append('times of execution in the metadata')
    for cell, content in images(notebook):
        if len(content) > MOST_OF_AN_IMAGE:
            found.append(f'image of {len(content)} bytes')
        if len(cell['metadata'].get('mystnb', {}).get('image', {}).get('alt', '').split()) <= 3:
            found.append('image without an alternative text')
        following = notebook['cells'][notebook['cells'].index(cell) + 1 :][:1]
        if not following or not re.match(r'\*[^*\n]', joined(following[0]['source'])):
            found.append('image without a caption')
    return found


def wrong_results(name, notebook):
    """Results of a tutorial that are absent or out of their range."""
    for pattern, (least, most) in RESULTS[name].items():
        match = re.search(pattern, printed(notebook))
        if match is None or not least <= float(match[1]) <= most:
            yield f'{pattern}: {match and match[1]} is not between {least} and {most}'


def kinds(notebook):
    """The outputs of each cell without their numbers, images as their types."""
    for cell in notebook['cells']:
        streams = ''.join(joined(output.get('text', '')) for output in cell.get('outputs', ()))
        shown = [sorted(output['data']) for output in cell.get('outputs', ()) if 'data' in output]
        yield ' '.join(re.sub(r'-?\d[\d,]*(\.\d+)?', '#', streams).split()), shown


def test_there_are_results_for_every_tutorial():
    assert set(NOTEBOOKS) == set(RESULTS)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_stored_outputs(name):
    notebook = read(name)
    assert not faults_of(notebook)
    assert not list(wrong_results(name, notebook))
    assert len(list(images(notebook))) >= 2
    assert NOTEBOOKS[name].stat().st_size < MOST_OF_A_NOTEBOOK


def test_the_checks_find_faults():
    good = read('calibrate')
    with_image = next(index for index, cell in enumerate(good['cells']) if list(images({'cells': [cell]})))
    stream = dict(output_type='stream', name='stdout', text=['saved to /home/me/x.png\n'])
    changes = {
        'not executed from top to bottom': lambda cells: cells[1].update(execution_count=None),
        'absolute path /home/me/x.png': lambda cells: cells[1]['outputs'].append(stream),
        'output on stderr': lambda cells: cells[1]['outputs'].append(dict(stream, name='stderr')),
        'warning': lambda cells: cells[1]['outputs'].append(dict(stream, text='UserWarning: x')),
        'error ValueError': lambda cells: cells[1]['outputs'].append(dict(output_type='error', ename='ValueError')),
        'without an alternative text': lambda cells: cells[with_image]['metadata'].clear(),
        'without a caption': lambda cells: cells.pop(with_image + 1),
    }
    for fault, change in changes.items():
        bad = copy.deepcopy(good)
        assert bad['cells'][1]['cell_type'] == 'code'
        change(bad['cells'])
        assert any(fault in found for found in faults_of(bad)), fault
    assert list(wrong_results('calibrate', {'cells': []}))


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_links_exist(name):
    """Links of a tutorial, and those to it from the pages where readers start."""
    text = '\n'.join(joined(cell['source']) for cell in read(name)['cells'] if cell['cell_type'] == 'markdown')
    targets = re.findall(r'\]\(([^)#\s]+)', text)
    assert targets
    for target in targets:
        assert target.startswith('https://') or (NOTEBOOKS[name].parent / target).is_file(), target
    for page, link in (
        ('README.md', f'](docs/tutorials/{name}.ipynb)'),
        ('docs/index.md', f'](tutorials/{name}.ipynb)'),
        ('docs/getting_started.md', f'](tutorials/{name}.ipynb)'),
    ):
        assert link in (ROOT / page).read_text(), page


@pytest.mark.slow
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_tutorial_runs(name, tmp_path):
    """Each cell runs, with outputs of the same kind as the stored ones, and the results are what the text says."""
    nbformat = pytest.importorskip('nbformat')
    for package in ('nbclient', 'ipykernel', 'mmdet', 'torchvision', 'matplotlib'):
        pytest.importorskip(package)
    from run_tutorials import execute

    stored = nbformat.read(NOTEBOOKS[name], as_version=4)
    done = execute(stored, tmp_path)
    assert not faults_of(done)
    assert not list(wrong_results(name, done))
    assert list(kinds(done)) == list(kinds(stored))
