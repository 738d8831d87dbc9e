"""What the documents say: commands that their tools understand, links."""

import re
import shlex
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from mmscope import cli

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob('*.md'),
    *(
        page
        for page in ROOT.glob('docs/**/*.md')
        if 'generated' not in page.parts
    ),
    *ROOT.glob('configs/*/README.md'),
]
BLOCK = re.compile(
    r'^```(?:shell|bash|sh)\n(.*?)^```', re.MULTILINE | re.DOTALL
)
# shell control that a line of a loop begins with
CONTROL = re.compile(r'^\s*(?:do|then|else)?\s*')
LINK = re.compile(r'\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)')


def commands_of(page: Path) -> list[list[str]]:
    """Words of each command of the project on a page, the tool first."""
    found = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace('\\\n', ' ').splitlines():
            words = shlex.split(CONTROL.sub('', line), comments=True)
            while words and re.fullmatch(r'\w+=.*', words[0]):
                del words[0]  # environment
            if words[:1] == ['python'] and 'tools/' in ''.join(words[1:2]):
                found.append([Path(words[1]).stem, *words[2:]])
            elif words[:1] == ['tools/dist_train.sh']:
                found.append(['train', words[1], *words[3:]])
            elif words[:1] == ['tools/dist_test.sh']:
                found.append(['test', *words[1:3], *words[4:]])
            elif words[:1] == ['mim'] and words[2] == 'mmscope':
                # mim hands a checkpoint on as test.py wants it
                rest = [w for w in words[3:] if w != '--checkpoint']
                found.append(rest if words[1] == 'run' else [words[1], *rest])
            elif words[:1] == ['mmscope'] and len(words) > 1:
                tool = cli.commands().get(words[1])
                assert tool, f'{page.name}: mmscope has no {words[1]}'
                found.append([tool.stem, *words[2:]])
    return found


COMMANDS = [
    pytest.param(tool, words, id=f'{page.stem}-{tool}-{" ".join(words)[:50]}')
    for page in PAGES
    for tool, *words in commands_of(page)
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 60


@pytest.mark.parametrize(('tool', 'words'), COMMANDS)
def test_a_tool_understands_the_command(tool, words, monkeypatch) -> None:
    # what is piped or redirected is the shell's
    ends = [
        words.index(sign) for sign in ('|', '>', '&&', ';') if sign in words
    ]
    words = words[: min(ends, default=None)]
    path = ROOT / 'tools' / f'{tool}.py'
    assert path.is_file(), f'there is no tools/{tool}.py'
    spec = spec_from_file_location(tool, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, 'argv', [tool, *words])
    module.parse_args()


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_what_a_page_links_to_is_there(page) -> None:
    missing = [
        target
        for target in LINK.findall(page.read_text())
        if not (page.parent / target).exists() and 'generated/' not in target
    ]
    assert not missing


# a tool and its options inside a sentence
SPAN = re.compile(r'`(?:tools/)?(\w+)\.py( [^`]*--[^`]*)`')
OPTIONS = sorted(
    {
        (tool, option)
        for page in PAGES
        for tool, words in SPAN.findall(page.read_text())
        if (ROOT / 'tools' / f'{tool}.py').is_file()
        for option in re.findall(r'--[a-z][\w-]*', words)
    }
)


@pytest.mark.parametrize(('tool', 'option'), OPTIONS)
def test_a_tool_has_the_option_of_a_sentence(
    tool, option, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(sys, 'argv', [tool, '--help'])
    with pytest.raises(SystemExit):
        cli.run(ROOT / 'tools' / f'{tool}.py')
    assert re.search(rf'{option}\b(?!-)', capsys.readouterr().out)
