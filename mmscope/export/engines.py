"""What runs exported graphs: onnxruntime, or OpenVINO on the same files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .optional import require_packages

Arrays = dict[str, np.ndarray]
# outputs of these names to inputs by name
Graph = Callable[[list[str], Arrays], Arrays]


def open_graph(path: Path, engine: str, threads: int) -> Graph:
    """Load a graph to run on the CPU in float32.

    Args:
        path: File of ONNX.
        engine: One of :data:`ENGINES`.
        threads: Threads to run on; 0 for one for each core.

    Returns:
        Function from names of outputs and inputs by name to these outputs.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: the engine is not installed.
        ValueError: ``engine`` is unknown.
    """
    if engine not in ENGINES:
        raise ValueError(
            f'engine must be one of {", ".join(ENGINES)}, got {engine!r}'
        )
    require_packages('serving', engine)
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; run tools/export.py')
    return ENGINES[engine](path, threads)


def _onnxruntime(path: Path, threads: int) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(path), options, providers=['CPUExecutionProvider']
    )

    def run(names: list[str], inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


def _openvino(path: Path, threads: int) -> Graph:
    import openvino

    # it would take bfloat16 of its own accord where the CPU has it
    options: dict[str, object] = dict(INFERENCE_PRECISION_HINT='f32')
    if threads:
        options['INFERENCE_NUM_THREADS'] = threads
    core = openvino.Core()
    model = core.compile_model(core.read_model(path), 'CPU', options)

    def run(names: list[str], inputs: Arrays) -> Arrays:
        found = model(inputs, share_outputs=False)
        return {name: found[model.output(name)] for name in names}

    return run


ENGINES = dict(onnxruntime=_onnxruntime, openvino=_openvino)
