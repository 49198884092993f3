"""Everything that families share; its face is for the floors above, the families import its modules."""

from .capture import capturing
from .conv_inputs import pixels
from .exact import right, verified
from .fastest import only_way
from .inputs import autocast, autocast_dtype, flat
from .library import LAUNCHERS, ON_CPU, TRITON_DEVICES
from .nm import check_places, transpose
from .persistent import Form, configurations
from .plan import forget
from .quantize import quantize_fp8, quantize_int8

__all__ = [
    "LAUNCHERS",
    "ON_CPU",
    "TRITON_DEVICES",
    "Form",
    "autocast",
    "autocast_dtype",
    "capturing",
    "check_places",
    "configurations",
    "flat",
    "forget",
    "only_way",
    "pixels",
    "quantize_fp8",
    "quantize_int8",
    "right",
    "transpose",
    "verified",
]
