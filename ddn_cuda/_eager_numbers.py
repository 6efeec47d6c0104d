"""`numbers_of` outside the graphs of torch.compile, which breaks them."""

import torch

from ddn_cuda import _numbers

numbers_of = torch.compiler.disable(  # type: ignore[no-untyped-call]
    _numbers.numbers_of,
    reason="`dim`, `max_iter` or `tol` is a NumPy number, which torch.compile treats as a tensor; "
    "expected a Python number under fullgraph=True, such as int(dim)",
)
