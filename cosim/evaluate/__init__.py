"""A quantized network on simulated arrays, compared with pure software."""

from cosim.evaluate.circuit import CircuitNetwork
from cosim.evaluate.comparison import Accuracy, Comparison, LayerComparison, compare_record
from cosim.evaluate.inference import compare, infer
from cosim.evaluate.record import RunRecord

__all__ = [
    "Accuracy",
    "CircuitNetwork",
    "Comparison",
    "LayerComparison",
    "RunRecord",
    "compare",
    "compare_record",
    "infer",
]
