"""The issue forms and the pull-request template: they parse, and every command that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bucketed_losses.cli.main import VERBS, build_parser

yaml = pytest.importorskip('yaml')

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / '.github'
FORMS = [path for path in sorted((GITHUB / 'ISSUE_TEMPLATE').glob('*.yml')) if path.name != 'config.yml']
TEMPLATE = GITHUB / 'pull_request_template.md'


def fields(name):
    form = yaml.safe_load((GITHUB / 'ISSUE_TEMPLATE' / f'{name}.yml').read_text())
    return {field['id']: field for field in form['body'] if field['type'] != 'markdown'}


@pytest.mark.parametrize('path', FORMS, ids=lambda path: path.stem)
def test_forms_have_what_github_requires(path):
    form = yaml.safe_load(path.read_text())
    assert {'name', 'description', 'body'} <= set(form) <= {'name', 'description', 'body', 'labels', 'title'}
    assert all(field['type'] in ('textarea', 'input', 'checkboxes', 'dropdown', 'markdown') for field in form['body'])
    assert all(re.fullmatch(r'[\w-]+', field['id']) and field['attributes']['label'] for field in form['body'])
    assert len({field['id'] for field in form['body']}) == len(form['body'])
    assert any(field.get('validations', {}).get('required') for field in form['body'])


def test_a_bug_report_needs_the_output_of_the_doctor():
    assert {'doctor', 'command', 'traceback', 'config'} <= set(fields('bug'))
    doctor = fields('bug')['doctor']
    assert doctor['validations']['required'] is True
    assert '`bucketed-losses doctor`' in doctor['attributes']['description']
    for field in ('command', 'traceback'):
        assert fields('bug')[field]['validations']['required'] is True


def test_the_chooser():
    assert yaml.safe_load((GITHUB / 'ISSUE_TEMPLATE/config.yml').read_text())['blank_issues_enabled'] is True


@pytest.mark.parametrize('path', [*FORMS, TEMPLATE], ids=lambda path: path.name)
def test_commands_and_files_exist(path):
    text = ' '.join(path.read_text().split())
    for call in re.findall(r'`bucketed-losses ([^`]+)`', text):
        verb, *arguments = call.split()
        assert verb in VERBS
        for option in [argument for argument in arguments if argument.startswith('--')]:
            pytest.importorskip('mmdet')
            assert option in build_parser(verb)._subparsers._group_actions[0].choices[verb]._option_string_actions
    for module in re.findall(r'`python -m bucketed_losses\.(\w+)`', text):
        assert (ROOT / 'bucketed_losses' / module / '__main__.py').is_file()
    for target in re.findall(r'`make ([\w-]+)`', text):
        assert re.search(rf'^{target}:', (ROOT / 'Makefile').read_text(), re.MULTILINE), target
    for file in re.findall(r'\b(?:[\w/]+/)?[\w]+\.md\b', text):
        assert (ROOT / file).is_file(), file
    for config in re.findall(r'`mmdet::([^`]+)`', text):
        mmdet = pytest.importorskip('mmdet')
        assert (Path(mmdet.__file__).parent / '.mim/configs' / config).is_file(), config
