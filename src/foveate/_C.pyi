"""The native part: importing it registers torch.ops.foveate."""

def cpu_features() -> dict[str, bool]:
    """Instruction sets that this processor and operating system offer, narrowest first; empty if not x86-64."""
