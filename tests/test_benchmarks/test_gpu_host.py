"""benchmarks.gpu_host without a GPU: all forms run, and its files."""

import json

from benchmarks import gpu_host


def test_every_form_is_timed(tmp_path, monkeypatch, capsys) -> None:
    forms = {'as called': None, 'blocks compiled': dict(backend='aot_eager')}
    monkeypatch.setattr(gpu_host, 'FORMS', forms)
    out, profile = tmp_path / 'host.json', tmp_path / 'profile.txt'
    gpu_host.main(
        [
            *('--device', 'cpu', '--cases', '2x32', '--dtype', 'fp32'),
            *('--repeats', '2', '--out', str(out)),
            *('--profile', str(profile)),
        ]
    )
    records = json.loads(out.read_text())['records']
    assert [r['form'] for r in records] == [*forms, 'cuda_graphs=True']
    assert all(r['host'] > 0 and r['time']['median'] > 0 for r in records)
    assert all(r['reason'] is None for r in records)
    assert 'mmscope::' in profile.read_text()
    assert 'blocks compiled' in capsys.readouterr().out


def test_a_form_that_fails_says_why(monkeypatch, tmp_path) -> None:
    def fails(graph, inputs):
        raise OSError('no compiler')

    forms = {'as called': None, 'blocks compiled': dict(backend=fails)}
    monkeypatch.setattr(gpu_host, 'FORMS', forms)
    out = tmp_path / 'host.json'
    gpu_host.main(
        [
            *('--device', 'cpu', '--cases', '1x32', '--dtype', 'fp32'),
            *('--repeats', '1', '--out', str(out)),
        ]
    )
    rows = {r['form']: r for r in json.loads(out.read_text())['records']}
    assert rows['as called']['reason'] is None
    assert rows['blocks compiled']['time'] is None
    assert rows['blocks compiled']['reason']
