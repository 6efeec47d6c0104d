"""A small run of every kernel on a GPU, to be watched by compute-sanitizer; checks nothing itself.

compute-sanitizer python -m bench.sanitizer_case
"""

from __future__ import annotations

import torch

import ddn_cuda

# One point; less than, exactly and more than a warp; a 7x7 image; sizes on both sides of those at
# which another kernel takes over, in either dtype; the last fits on no chip.
POINTS = (1, 31, 32, 33, 49, 257, 1024, 2100, 9000, 20000)
SETS = 5


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        for n in POINTS:
            # Drawn on the CPU: only kernels of this project run on the GPU, as far as can be.
            points = torch.randn(SETS, n, dtype=dtype, generator=generator)
            for layout in ("rows", "columns"):
                x = points.cuda() if layout == "rows" else points.t().contiguous().cuda().t()
                x.requires_grad_()
                for penalty in ddn_cuda.PENALTIES:
                    y = ddn_cuda.robust_pool(x, penalty, 0.5)
                    y.backward(torch.ones_like(y))
    torch.cuda.synchronize()
    print(f"ran {len(ddn_cuda.PENALTIES)} penalties on {len(POINTS)} sizes of sets")


if __name__ == "__main__":
    main()
