"""Linear layers of exported graphs in int8."""

import shutil
from pathlib import Path

from .optional import require_packages
from .record import ExportRecord


def quantise(folder: str | Path, out: str | Path) -> None:
    """Copy exported graphs with linear layers in int8.

    Weights are stored as int8, and activations are quantised as they come:
    no data is needed to calibrate them. Scan, norms and convolutions stay
    float32.

    Args:
        folder: Folder of :func:`export_onnx`.
        out: Folder to write to, another one.

    Raises:
        RuntimeError: onnx or onnxruntime are not installed.
        ValueError: both folders are one.
    """
    require_packages('quantisation', 'onnx', 'onnxruntime')
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder, out = Path(folder), Path(out)
    if folder.resolve() == out.resolve():
        raise ValueError(f'out={out} is the folder of the float graphs')
    record = ExportRecord.load(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name in ('coarse', 'fine'):
        quantize_dynamic(
            folder / f'{name}.onnx',
            out / f'{name}.onnx',
            op_types_to_quantize=['MatMul', 'Gemm'],
            weight_type=QuantType.QInt8,
            # the products of activations in the scan are none of its weights
            extra_options=dict(MatMulConstBOnly=True),
        )
    if record.decode_reads:
        shutil.copy(folder / 'decode.onnx', out)
    record.save(out)
