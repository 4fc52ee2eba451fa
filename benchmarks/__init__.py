"""Measurements of speed: one file for each operation, each a comparison in one run.

`foveate bench [NAME...]` runs them; a file offers `cases()`. Peers are what a user would run instead: plain PyTorch,
and transformers where it is installed.
"""

NAMES = (
    "window_core",
    "window_layer",
    "full_attention",
    "decoder_attention",
    "gqa_decode",
    "mla_decode",
    "moe_prefill",
    "moe_decode",
    "linear",
    "nano_train_step",
    "nano_ask",
)
"""Every measurement of an operation, each in the file of its name; all of them take some minutes."""
ALSO = {"moe_decode_int8": "moe_decode", "moe_decode_nf4": "moe_decode"}
"""Operations that the file of another measures."""
ON_REQUEST = ("checkpoint", "gpu", "pointwise", "resize", "rl", "router", "sizes")
"""What runs only when it is named."""
