"""The native part: importing it registers torch.ops.foveate."""

def cpu_features() -> dict[str, bool]:
    """Instruction sets that this processor and operating system offer, narrowest first; empty if not x86-64."""

def isa() -> str:
    """The instruction set that the kernels run with: the widest here, or what $FOVEATE_ISA names."""

def use_isa(name: str) -> str:
    """Run the kernels with this instruction set from now on; returns the one before."""
