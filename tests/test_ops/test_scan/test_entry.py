"""The entry: which backend runs, and what wrong input is told."""

from __future__ import annotations

import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from scan_cases import one_direction, scan_inputs

from mmscope.ops import (
    bidirectional_scan,
    scan_backends,
    selective_scan,
    use_backend,
)

ENTRY = importlib.import_module('mmscope.ops.backends')


@pytest.fixture
def ran(monkeypatch):
    """Names of the backends that ran; 'broken' refuses, 'a', 'b' run."""
    names = []

    def row(name, reason=None):
        def core(inputs, options):
            names.append(name)
            return inputs.u[0] if options.merge else inputs.u, None

        return ENTRY.ScanBackend(name, lambda u: reason, lambda: core)

    table = (row('broken', 'no such chip'), row('a'), row('b'), row('c'))
    monkeypatch.setattr(ENTRY, 'BACKENDS', table)
    monkeypatch.delenv(ENTRY.ENV_BACKEND, raising=False)
    return names


def scan(backend=None):
    bidirectional_scan(**scan_inputs(), backend=backend)


def test_precedence(ran, monkeypatch):
    scan()
    monkeypatch.setenv(ENTRY.ENV_BACKEND, 'b')
    scan()
    with use_backend('c'):
        scan()
        scan('a')
        with use_backend('auto'):
            scan()
        scan()
    scan()
    assert ran == ['a', 'b', 'c', 'a', 'a', 'c', 'b']


def test_both_entries_choose_alike(ran):
    selective_scan(**one_direction(scan_inputs()), backend='b')
    assert ran == ['b']


def test_empty_environment_variable_means_auto(ran, monkeypatch):
    monkeypatch.setenv(ENTRY.ENV_BACKEND, '')
    scan()
    assert ran == ['a']


def test_use_backend_ends_with_an_error(ran):
    with pytest.raises(KeyError), use_backend('b'):
        raise KeyError
    scan()
    assert ran == ['a']


def test_named_backend_never_falls_back(ran, monkeypatch):
    message = "scan backend 'broken' cannot run here: no such chip"
    with pytest.raises(RuntimeError, match=message):
        scan('broken')
    with use_backend('broken'), pytest.raises(RuntimeError, match=message):
        scan()
    monkeypatch.setenv(ENTRY.ENV_BACKEND, 'broken')
    with pytest.raises(RuntimeError, match=message):
        scan()
    assert not ran


def test_nothing_can_run(ran, monkeypatch):
    monkeypatch.setattr(ENTRY, 'BACKENDS', ENTRY.BACKENDS[:1])
    with pytest.raises(RuntimeError, match='no such chip'):
        scan()


def test_unknown_backend_names_the_choices(monkeypatch):
    choices = sorted(['auto', *scan_backends()])
    for name in choices:
        assert name in {'auto', *(row.name for row in ENTRY.BACKENDS)}
    with pytest.raises(ValueError, match="got 'pscan'") as error:
        scan('pscan')
    assert str(choices) in str(error.value)
    with (
        pytest.raises(ValueError, match="got 'pscan'"),
        use_backend('pscan'),
    ):
        pass
    monkeypatch.setenv(ENTRY.ENV_BACKEND, 'pscan')
    with pytest.raises(ValueError, match=ENTRY.ENV_BACKEND):
        scan()


def test_a_choice_holds_in_its_own_thread_only(ran):
    with use_backend('b'), ThreadPoolExecutor(1) as pool:
        pool.submit(scan).result()
    assert ran == ['a']


def test_torch_compile_is_not_imported_before_it_is_used():
    program = """
import sys
import mmscope, mmscope.ops
assert 'torch._dynamo' not in sys.modules
"""
    subprocess.run([sys.executable, '-c', program], check=True)


def test_table_for_printing(ran):
    assert scan_backends() == {
        'broken': 'no such chip',
        'a': None,
        'b': None,
        'c': None,
    }


def test_torch_and_reference_run_anywhere():
    reasons = scan_backends()
    assert reasons['torch'] is None and reasons['reference'] is None


@pytest.mark.parametrize(
    ('name', 'shape'),
    [
        ('u', (3, 2, 9, 5)),
        ('u', (2, 9, 5)),
        ('delta', (2, 2, 8, 5)),
        ('A', (2, 4, 3)),
        ('A', (5, 3)),
        ('B', (2, 2, 9, 4)),
        ('C', (2, 2, 3, 9)),
        ('D', (5,)),
        ('z', (2, 2, 9, 5)),
        ('delta_bias', (2, 1)),
    ],
)
def test_wrong_shapes_are_named(name, shape):
    inputs = scan_inputs()
    inputs[name] = torch.zeros(shape)
    with pytest.raises(ValueError) as error:
        bidirectional_scan(**inputs)
    message = str(error.value)
    # a wrong u shows as the first tensor that does not fit it
    assert 'must be (' in message
    assert name == 'u' or message.startswith(f'{name} must be (')
    assert str(shape) in message


@pytest.mark.parametrize(
    ('name', 'shape'),
    [
        ('u', (2, 5)),
        ('delta', (2, 9, 5)),
        ('A', (5,)),
        ('B', (2, 9, 3)),
        ('C', (2, 4, 9)),
        ('D', (4,)),
        ('z', (2, 5, 8)),
        ('delta_bias', (2, 5)),
    ],
)
def test_wrong_shapes_of_one_direction_are_named(name, shape):
    inputs = one_direction(scan_inputs())
    inputs[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=f'^{name} must be') as error:
        selective_scan(**inputs)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ('sizes', 'axis'),
    [((2, 0, 5, 3), 'L'), ((2, 9, 0, 3), 'Dim'), ((2, 9, 5, 0), 'S')],
)
def test_empty_sequences_are_refused(sizes, axis):
    inputs = scan_inputs(*sizes)
    with pytest.raises(ValueError, match=f'has no {axis};'):
        bidirectional_scan(**inputs)
    with pytest.raises(ValueError, match=f'has no {axis};'):
        selective_scan(**one_direction(inputs))


@pytest.mark.parametrize('name', ['u', 'delta', 'z'])
@pytest.mark.parametrize('dtype', [torch.int64, torch.complex64])
def test_only_floating_point(name, dtype):
    inputs = scan_inputs()
    inputs[name] = inputs[name].to(dtype)
    with pytest.raises(TypeError, match=f'{name} must be.*got {dtype}'):
        bidirectional_scan(**inputs)


def test_devices_must_agree():
    inputs = scan_inputs()
    inputs['A'] = inputs['A'].to('meta')
    with pytest.raises(ValueError, match='A is on meta, but u on cpu'):
        bidirectional_scan(**inputs)
