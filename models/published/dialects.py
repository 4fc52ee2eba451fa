"""How each published family writes boxes; calls are Hermes tags in all of them.

Source: the families' model cards and cookbooks. Qwen2-VL and Qwen3-VL give thousandths of each side, Qwen2.5-VL pixels
of the picture as it was resized for the model, Kimi-VL fractions.
"""

from foveate.models.reasoner import Dialect

DIALECTS = {
    "qwen2_vl": Dialect(box_space="relative_1000"),
    "qwen2_5_vl": Dialect(box_space="pixels"),
    "qwen3_vl": Dialect(box_space="relative_1000"),
    "kimi_vl": Dialect(box_space="unit"),
    "qwen3_vl_moe": Dialect(box_space="relative_1000"),
}
"""By model_type."""
