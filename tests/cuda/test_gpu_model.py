"""The model of GPU time: its table of costs, its rule, summaries and goals."""

import numpy as np
import pytest

from bench.gpu_model import costs, counts_table, figures, points, registers, report, rule, summary
from bench.gpu_model.counted import WORKLOADS
from bench.gpu_model.counts_table import Goal
from bench.gpu_model.machines import MACHINES, most_registers, resident_blocks
from tests.support.invented_counts import KERNEL, SETS, invented
from tests.support.ptx_emulator.counts import Traffic

H200 = MACHINES["H200"]


# Costs


@pytest.mark.parametrize(
    ("opcode", "expected"),
    [
        ("fma.rn.f32", {"fp32": 1}),
        ("add.rn.ftz.f32", {"fp32": 1}),
        ("add.rn.f64", {"fp64": 1}),
        ("min.f64", {"fp64": 1, "compare": 2, "move": 1}),
        ("abs.f32", {}),
        ("neg.s64", {"integer": 2}),
        ("add.s64", {"integer": 2}),
        ("add.s64 folded", {}),
        ("shl.b64", {"integer": 2}),
        ("shl.b64 folded", {}),
        ("mul.wide.s32", {"multiply": 1}),
        ("mul.lo.s64", {"multiply": 4}),
        ("setp.lt.f32", {"compare": 1}),
        ("setp.lt.u16", {"integer": 1}),
        ("selp.f64", {"compare": 2}),
        ("and.pred", {"integer": 0.5}),
        ("ex2.approx.f32", {"special": 1, "fp32": 2, "compare": 1}),
        ("ex2.approx.ftz.f32", {"special": 1}),
        ("cvt.f64.f32", {"conversion": 1}),
        ("cvt.rzi.s32.f64", {"conversion": 1}),
        ("cvt.rn.f64.s64", {"conversion": 1}),
        ("cvt.s64.s32", {"integer": 1}),
        ("cvt.u32.u64", {}),
        ("shfl.sync.bfly.b32", {"shuffle": 1}),
        ("bar.warp.sync", {"shuffle": 1}),
        ("bar.sync", {"barrier": 1}),
        ("barrier.sync.aligned", {"barrier": 1}),
        ("redux.sync.add.s32", {"shuffle": 1, "move": 1}),
        ("ld.param.u64", {}),
        ("ld.shared.v4.f32", {"shared": 1}),
        ("ld.volatile.shared.f32", {"shared": 1}),
        ("atom.shared.add.u32", {"shared": 1}),
        ("ld.global.nc.v2.f32", {"global": 1}),
        ("ld.f32", {"global": 1}),
        ("st.local.v2.u8", {"local": 1}),
        ("bra", {"control": 1}),
        ("bra.uni", {"control": 0.3}),
        ("mov.b64", {}),
        ("cvta.to.global.u64", {}),
        ("cp.async.ca.shared.global", {"global": 1}),
        ("cp.async.cg.shared.global", {"global": 1}),
        ("cp.async.commit_group", {"control": 1}),
        ("cp.async.wait_group", {"control": 1}),
        ("cvt.rn.bf16.f32", {"conversion": 1}),
        ("cvt.rn.bf16x2.f32", {"conversion": 1}),
        ("cvt.f32.bf16", {"conversion": 1}),
        ("cvt.rn.f16.f32", {"conversion": 1}),
        ("cvt.f32.f16", {"conversion": 1}),
        ("prmt.b32", {"integer": 1}),
        ("rsqrt.approx.ftz.f32", {"special": 1}),
        ("st.global.v4.b16", {"global": 1}),
        ("ld.shared.v2.b64", {"shared": 1}),
    ],
)
def test_costs(opcode, expected):
    assert costs.cost(opcode) == expected


@pytest.mark.parametrize("opcode", ["wgmma.mma_async", "add.f16x2", "bra.idx", "", "unknown"])
def test_an_opcode_without_a_cost_is_an_error(opcode):
    with pytest.raises(costs.UnknownOpcode, match="give it a row"):
        costs.cost(opcode)


def test_costs_name_known_units():
    assert {unit for row in costs.ROWS for unit in row.cost} == set(costs.UNITS)
    found = costs.by_unit({"fma.rn.f32": 10, "div.rn.f64": 2})
    assert (found["fp32"], found["fp64"], found["special"]) == (12, 16, 2)


# Machines


@pytest.mark.parametrize(
    ("name", "threads", "shared", "registers", "blocks"),
    [
        ("H200", 256, 0, 128, 2),  # registers
        ("H200", 256, 0, 74, 3),
        ("H200", 128, 0, 255, 2),
        ("H200", 512, 0, 128, 1),
        ("H200", 256, 80 << 10, 64, 2),  # shared memory
        ("A100", 256, 80 << 10, 64, 2),
        ("RTX 4090", 256, 80 << 10, 64, 1),
        ("H200", 256, 0, 16, 8),  # threads
        ("RTX 4090", 256, 0, 16, 6),
        ("H200", 32, 0, 16, 32),  # blocks
        ("RTX 4090", 32, 0, 16, 24),
        ("H200", 1024, 200 << 10, 255, 1),
    ],
)
def test_resident_blocks(name, threads, shared, registers, blocks):
    assert resident_blocks(MACHINES[name], threads, shared, registers) == blocks


def test_machines():
    assert H200.bytes_per_cycle == pytest.approx(16.45, abs=0.01)
    assert MACHINES["RTX 4090"].fp64 * 64 == MACHINES["RTX 4090"].fp32
    assert [most_registers(threads) for threads in (32, 256, 512, 1024)] == [255, 255, 128, 64]


def test_registers_of_the_report():
    known = registers.read()
    assert 32 < known.of(KERNEL) <= 128
    assert known.of("void ddn::cuda::nothing<float>(ddn::cuda::LocalArgs)") is None


# The rule. Expected values are computed by hand. The rule is frozen and must not change.


def times_of(machine=H200, registers=128, **changes):
    return rule.launch_times(figures.of_counts(invented(**changes)), registers, machine)


def test_the_rule():
    times = times_of()
    assert times.issue == (1280 + 128 + 64) / 4
    assert times.fp32 == 1280 * 32 / 128
    assert times.special == times.fp64 == times.half_rate == 0
    assert times.shared == 128  # a request takes a cycle
    assert times.loads == 4 * 500 / 2  # two blocks of 256 threads with 128 registers
    assert times.memory == pytest.approx(512 * 32 / 16.45, rel=1e-3)
    # 4 bytes for 512 threads are too few in flight.
    assert times.predicted == times.issue + times.loads


def test_everything_overlaps_where_enough_is_in_flight():
    assert times_of(bytes_in_flight=80.0).predicted == 1000
    below = times_of(bytes_in_flight=79.9)
    assert below.predicted == below.issue + 1000


def test_loads_or_memory_whichever_takes_longer():
    times = times_of(block_load_chain=2)
    assert times.predicted == times.issue + times.memory


def test_a_unit_that_is_overloaded_limits():
    special = {"rsqrt.approx.ftz.f32": 5000.0, "cvt.f64.f32": 5000.0}
    times = times_of(instructions=special)
    assert times.special == 20000
    assert times.predicted == 20000  # more than issue plus loads
    slow = times_of(MACHINES["RTX 4090"], instructions=special)
    assert slow.special == 5000 * 2 + 5000 * 16
    double = {"fma.rn.f64": 100.0}
    assert times_of(instructions=double).fp64 == 50
    assert times_of(MACHINES["RTX 4090"], instructions=double).fp64 == 1600


def test_half_rate_predicts_nothing():
    times = times_of(instructions={"setp.lt.f32": 4000.0})
    assert times.half_rate == 2000
    assert times.predicted == times.issue + times.loads == 2000


def test_shared_memory_and_the_l1_cache():
    traffic = {
        "shared_load": Traffic(10, 1280, 40, 10, 0),
        "shared_store": Traffic(5, 640, 5, 5, 0),
        "shared_atomic": Traffic(2, 256, 2, 2, 16),
        "global_load": Traffic(10, 1280, 320, 0, 0),  # a sector for each lane
        "global_store": Traffic(4, 512, 16, 0, 0),
    }
    times = times_of(traffic=traffic, instructions={"shfl.sync.bfly.b32": 7.0})
    assert times.shared == 7 + 40 + 5 + 16 + 320 / 4 + 4


def test_launches_follow_each_other():
    kernel = figures.of_counts(invented())
    one, two = (rule.predict([(kernel, 128)] * n, 16384, H200) for n in (1, 2))
    assert one.memory == pytest.approx(1)
    assert two.predicted == pytest.approx(2 * one.predicted)
    unknown = rule.predict([(kernel, None)], 16384, H200)
    assert unknown.loads == pytest.approx(2 * one.loads)  # one block of 255 registers per thread


# Workloads


def test_workloads_have_one_name_each_and_can_be_drawn():
    names = [workload.name for workload in WORKLOADS.values()]
    assert names == list(WORKLOADS)
    assert len({w.layout for w in WORKLOADS.values() if w.quick}) == 3
    for name in ("forward huber 49", "backward huber bfloat16 49", "forward welsch weighted 64"):
        x, weight, _ = points.draw(WORKLOADS[name])
        assert x.shape == WORKLOADS[name].shape
        assert x.itemsize == WORKLOADS[name].item_bytes
        assert (weight is not None) == WORKLOADS[name].weighted


def test_points_lie_as_on_a_gpu():
    x, _, _ = points.draw(WORKLOADS["forward huber channels last 49"])
    assert x.shape == (8, 192, 49)
    assert x.strides == (4 * 49 * 192, 4, 4 * 192)
    assert x.ctypes.data % points.ALIGNMENT == 0
    x, _, ptr = points.draw(WORKLOADS["forward huber segments 300 x 64"])
    assert x.shape == (ptr[-1], 64)
    assert np.diff(ptr).min() >= 1
    assert np.diff(ptr).max() <= 30
    empty = WORKLOADS["backward huber segments 1000000 x 1"]
    assert points.count_points(empty) == empty.rows


def test_bytes_that_have_to_move():
    def needed(name):
        return WORKLOADS[name].needed_bytes(10)

    assert needed("forward huber 64") == 40
    assert needed("backward huber 64") == 80
    assert needed("forward huber bfloat16 49") == 20
    assert needed("forward huber weighted 64") == 80


# Summaries and goals


def summarized(kernels=None, workload=SETS):
    kernels = kernels or {KERNEL: figures.of_counts(invented())}
    return summary.summarize(workload, kernels, registers.read(), H200)


def test_a_summary():
    found = summarized()
    assert found.slots == 1472 * 32 / 4096
    assert found.units["fp32"] == 10
    assert found.slots_per_set == 92
    assert found.lanes == pytest.approx((40960 + 4096 + 1024) / (32 * 1472))
    assert (found.sectors, found.block_sectors) == (1, 1)
    assert (found.banks, found.collisions, found.barriers) == (1, 0, 0)
    assert found.chain == 1  # of a warp, which solves a set
    assert found.in_flight == 4 * 256 * 2
    assert found.filled == 1
    assert found.times.memory == pytest.approx(1)


def test_a_machine_that_is_not_filled_is_told():
    few = SETS._replace(full=(64, 256))
    assert summarized(workload=few).filled == pytest.approx(8 / (2 * 132))


def test_barriers_and_chains_of_blocks():
    counts = invented(instructions={"bar.sync": 320.0}, load_chain=64)
    two_sets = SETS._replace(shape=(2, 2048))
    found = summarized({KERNEL: figures.of_counts(counts)}, two_sets)
    assert found.barriers == 320 / 8 / 2
    assert found.chain == 4


def test_goals_are_judged():
    summaries = {"a": summarized(), "b": summarized()}
    predicted = summaries["a"].times.predicted
    goals = [Goal("predicted", 1.0), Goal("sectors", 1.05), Goal("predicted", 1.1, "b")]
    found = summary.judge("a", [*goals, Goal("predicted", 1.1, "absent")], summaries)
    assert [v.met for v in found] == [False, True, True, None]
    assert found[0].value == predicted
    assert found[2].value == 1
    assert report.count_met({"a": found}).startswith("goals met (✓): 2 of 3; 1 not judged")
    assert report.goal_text(found[1]) == " 1.00 / 1.05 sectors ✓"
    assert report.goal_text(found[3]) == "    ? / 1.1 x absent"


def test_goals_name_workloads():
    for name, goals in counts_table.read_goals().items():
        assert name in WORKLOADS
        for goal in goals:
            assert goal.figure in ("predicted", "sectors")
            assert goal.over is None or goal.over in WORKLOADS
