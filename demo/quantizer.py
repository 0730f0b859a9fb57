"""onnxruntime's own quantizer, for demo/quantizer.ts: MODEL OUT dynamic|static [CALIBRATION FRAMES CHANNELS HEIGHT WIDTH]."""
import sys

import numpy
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

source, target, mode = sys.argv[1:4]
if mode == "dynamic":
    quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
else:

    class Lines(CalibrationDataReader):
        def __init__(self):
            dims = [int(n) for n in sys.argv[5:9]]
            self.frames = iter(numpy.fromfile(sys.argv[4], numpy.float32).reshape(dims))

        def get_next(self):
            frame = next(self.frames, None)
            return None if frame is None else {"x": frame[None]}

    quantize_static(
        source,
        target,
        Lines(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.Percentile,
        extra_options={"CalibPercentile": 99.99},
    )
