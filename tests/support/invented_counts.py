"""Counts of a kernel and a workload that no machine has counted, to calculate with by hand."""

from bench.gpu_model.counted import Counted
from tests.support.ptx_emulator.counts import KernelCounts, Traffic

KERNEL = (
    "void ddn::cuda::local_pipeline<ddn::Huber, float, ddn::cuda::Lanes<32>, false>"
    "(ddn::cuda::LocalArgs)"
)
SETS = Counted("forward", "huber", "rows", (16, 256), (1 << 20, 256))


def invented(**changes):
    """Counts of two blocks of 256 threads, which load 16 KiB in 128 requests."""
    loads = Traffic(128, 16384, 512, 0, 0)
    counts = KernelCounts(
        launches=1,
        blocks=2,
        warps=16,
        threads=256,
        shared_bytes=0,
        instructions={"fma.rn.f32": 1280.0, "ld.global.f32": 128.0, "bra": 64.0},
        lane_instructions={"fma.rn.f32": 40960.0, "ld.global.f32": 4096.0, "bra": 1024.0},
        lines={"local.h:10": 1472.0},
        traffic={"global_load": loads},
        load_chain=16,
        block_load_chain=4,
        bytes_in_flight=4.0,
        block_sectors=512,
        block_stored_sectors=0,
        launch_sectors=512,
        launch_stored_sectors=0,
    )
    return counts._replace(**changes)
