"""The rule of each operator: what it does to the channels of its inputs. See ``follow.py``.

A rule takes the follower, the function, its arguments and its output tensors, and returns the channels of each output;
None for one whose channels are all mixed up and stay.
"""

from collections.abc import Callable

from .follow_layers import batch_norm, conv, conv_transpose, linear, prelu
from .follow_moves import chunk, move, shape
from .follow_values import combine, keep, mix, pad, pool, reduce

BY_RULE: dict[Callable, str] = {
    keep: """relu relu6 hardtanh gelu silu hardswish mish tanh sigmoid hardsigmoid leaky_relu elu selu celu softplus
        softsign logsigmoid exp log abs neg sqrt rsqrt square pow clamp clip dropout dropout1d dropout2d feature_dropout
        rsub rtruediv clone contiguous to type float double half bfloat16 detach""",
    combine: "add sub mul div maximum minimum",
    pool: """max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d
        adaptive_max_pool2d lp_pool2d interpolate""",
    pad: "pad",
    reduce: "mean sum amax amin",
    mix: """layer_norm group_norm instance_norm rms_norm softmax log_softmax matmul bmm baddbmm einsum normalize
        scaled_dot_product_attention multi_head_attention_forward setitem""",
    move: "permute transpose squeeze unsqueeze expand movedim moveaxis swapaxes t get cat stack",
    shape: """view reshape flatten unflatten split split_with_sizes tensor_split unbind getitem narrow select
        index_select repeat repeat_interleave roll flip pixel_shuffle pixel_unshuffle channel_shuffle""",
    chunk: "chunk",
    linear: "linear",
    conv: "conv1d conv2d conv3d",
    conv_transpose: "conv_transpose1d conv_transpose2d conv_transpose3d",
    batch_norm: "batch_norm",
    prelu: "prelu",
}
ALIASES = {
    "iadd": "add",
    "radd": "add",
    "isub": "sub",
    "imul": "mul",
    "rmul": "mul",
    "itruediv": "div",
    "truediv": "div",
    "concat": "cat",
    "concatenate": "cat",
    "absolute": "abs",
}
RULES: dict[str, Callable] = {name: rule for rule, names in BY_RULE.items() for name in names.split()}
RULES |= {alias: RULES[name] for alias, name in ALIASES.items()}
