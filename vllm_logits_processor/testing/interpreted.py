"""Kernels without an accelerator: Triton's interpreter runs them on CPU tensors."""

from __future__ import annotations

import torch


def kernel_device(*, interpreted: bool = False) -> torch.device:
    """Return a device that kernels run on, to be called before any are imported.

    Without an accelerator, or if asked, it is the CPU: from here on kernels of this process are
    interpreted.
    """
    if torch.cuda.is_available() and not interpreted:
        return torch.device("cuda")
    import triton
    from triton import knobs
    from triton import language as tl
    from triton.language import standard
    from triton.runtime.interpreter import InterpretedFunction

    knobs.runtime.interpret = True
    # Triton may have been imported before, with functions of its own that are to be compiled.
    for module in (tl, standard):
        for name, function in vars(module).items():
            if isinstance(function, triton.JITFunction):
                setattr(module, name, InterpretedFunction(function.fn))
    return torch.device("cpu")
