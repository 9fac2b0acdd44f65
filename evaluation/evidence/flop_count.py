"""FLOPs of whatever runs inside a block: matrix products and attention, a multiply-add counted as two.

The formulas are PyTorch's own (`torch.utils.flop_counter`). Its FlopCounterMode also keeps track of modules, by hooks
that refuse a backward pass inside a forward pass, and row gradients have one; this counts the operators alone.
"""

from __future__ import annotations

from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCount(TorchDispatchMode):
    """Use as a context manager; `total` is what ran inside."""

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()
        self.total = 0
        # The plain attention: two matrix products, which have a formula; the CPU's fused kernel has none.
        self._plain = sdpa_kernel(SDPBackend.MATH)

    def __enter__(self) -> FlopCount:
        self._plain.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        self._plain.__exit__(*exc)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and add what its formula says."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=result))
        return result
