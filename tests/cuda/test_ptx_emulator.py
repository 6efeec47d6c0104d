"""The PTX emulator: its reports, its arithmetic, and a few kernels of the project.

All kernels run on it with `make test-ptx`.
"""

import re
import struct

import numpy as np
import pytest
import torch

from tests.support import contract
from tests.support import reference as ref
from tests.support.cuda_shim.host_build import kernel_units
from tests.support.cuda_shim.mutations import BARRIER, Mutation, mutate
from tests.support.cuda_shim.shim import ORDERS, ShimError, in_every_schedule
from tests.support.ptx_emulator import build, parser
from tests.support.ptx_emulator.translator import KernelTranslator

HERE = build.HERE
# nvcc and the emulator are slow, and make test-ptx includes these tests.
pytestmark = pytest.mark.slow
SOURCES = [HERE / name for name in ("defects.cu", "instructions.cu")]


@pytest.fixture(scope="module")
def host_objects(source_library):
    if reason := build.missing():
        pytest.skip(reason)
    return source_library.objects


@pytest.fixture(scope="module")
def emulator(host_objects, tmp_path_factory):
    """An emulator of the kernels with defects and of single instructions."""
    return build.build(tmp_path_factory.mktemp("defects"), host_objects, SOURCES)


def run_defect(emulator, name, dtype=np.float32):
    """dtype: of the size to which x is aligned."""
    x = np.zeros(64, np.float32)
    x[1:] = np.linspace(0.5, 4, 63)
    out = np.zeros(64, np.float32)
    arguments = emulator._input(x.view(dtype)), emulator._pointer(out)
    assert emulator._call(emulator._c.shim_defect, name.encode(), *arguments) == 0, name
    return x, out


def marked_line(name):
    lines = (HERE / "defects.cu").read_text().splitlines()
    (line,) = [i for i, text in enumerate(lines, 1) if text.endswith(f"// at {name}")]
    return f"defects.cu:{line}"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("misaligned_shared", "misaligned access to shared memory"),
        ("misaligned_global", "misaligned access to global memory"),
        ("misaligned_tensor", "misaligned access to global memory"),
        ("load_before_null", "load of global memory out of bounds"),
        ("shared_out_of_bounds", "access to shared memory out of bounds"),
        ("global_load_out_of_bounds", "load of global memory out of bounds"),
        ("global_store_out_of_bounds", "store to global memory out of bounds"),
        ("store_to_input", "store to global memory out of bounds"),
        ("unwritten_shared", "reads shared memory that was never written"),
        ("unwritten_local", "reads local memory that was never written"),
        ("no_barrier", "race: .* another thread"),
        ("no_barrier_before_overwriting", "race: overwrites what another thread read"),
        ("no_warp_barrier", "race: reads what another thread stored|never written"),
        ("barrier_of_another_group", "race: reads what another thread stored|never written"),
        ("group_without_barrier", "race: reads what another thread stored|never written"),
        ("ordered_by_a_vote_alone", "weakly ordered: reads what another thread stored"),
        ("divergent_shuffle", "shfl.sync.bfly .*reads from inactive lane 16"),
        ("mask_of_half_a_warp", "lacks its caller"),
        ("divergent_barrier", "deadlock: .*wait in bar.sync"),
        ("division_by_zero", "integer division by zero"),
        ("copy_read_too_early", "race: reads what an asynchronous copy in flight writes"),
        ("copy_of_a_later_group", "race: reads what an asynchronous copy in flight writes"),
        ("uncommitted_copy", "race: reads what an asynchronous copy in flight writes"),
        ("copy_without_barrier", "race: reads what another thread stored"),
        ("copy_waited_for_after_the_barrier", "race: reads what "),
        ("store_to_a_copy", "race: overwrites what an asynchronous copy in flight writes"),
        ("two_copies_to_one_place", "race: overwrites what an asynchronous copy in flight writes"),
        ("copy_to_what_others_read", "race: overwrites what another thread read"),
        ("unfinished_copy", "exits without waiting for its asynchronous copy"),
        ("misaligned_copy_source", "misaligned access to global memory"),
        ("misaligned_copy_target", "misaligned access to shared memory"),
        ("copy_source_out_of_bounds", "load of global memory out of bounds"),
        ("copy_target_out_of_bounds", "access to shared memory out of bounds"),
    ],
)
def test_defect_is_reported_with_its_line(name, message, order, emulator):
    emulator.configure(order, seed=3)
    with pytest.raises(ShimError, match=message) as caught:
        run_defect(emulator, name)
    assert marked_line(name) in str(caught.value)
    x, out = run_defect(emulator, "sound")  # the next launch is unaffected
    np.testing.assert_allclose(out, np.repeat([x[32:].sum(), x[:32].sum()], 32), rtol=1e-6)


def test_what_is_right_is_not_reported(emulator):
    for order in ORDERS:
        emulator.configure(order, seed=3)
        _, out = run_defect(emulator, "neighbouring_bytes")
        np.testing.assert_array_equal(out, np.arange(64))
        _, out = run_defect(emulator, "constant_table")
        np.testing.assert_array_equal(out, [1, 2, 3] + [0] * 61)


def test_asynchronous_copies(emulator):
    for order in ORDERS:
        emulator.configure(order, seed=3)
        x, out = run_defect(emulator, "sound_copies", np.complex128)
        expected = x + (np.arange(64) % 4 == 0) * (np.arange(64) < 16)
        np.testing.assert_array_equal(out, expected.astype(np.float32)[::-1])
        _, out = run_defect(emulator, "zero_filled_copies", np.complex128)
        np.testing.assert_array_equal(out, [*x[16:62], *[0] * 18])
        _, out = run_defect(emulator, "copies_of_a_warp")
        np.testing.assert_array_equal(out, np.roll(x, -1).reshape(-1, 2)[:, ::-1].ravel())
        _, out = run_defect(emulator, "copies_of_groups")
        lane = np.arange(64)
        np.testing.assert_array_equal(out, x[((lane ^ 7) + lane % 32 // 8) % 64])


def test_launch_bounds_hold(emulator):
    with pytest.raises(ShimError, match="launched with 64 threads, compiled for 32"):
        run_defect(emulator, "launched_with_too_many_threads")


def test_kernels_without_ptx_cannot_be_launched(emulator):
    with pytest.raises(ShimError, match="no PTX of this kernel was translated"):
        emulator.forward(np.zeros((2, 5), np.float32), "huber")


def float_bits(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def test_instructions(emulator):
    """Expected values are computed by hand, from the PTX ISA."""
    f, g = np.float32(-1.75), np.float32(3.3)
    x = np.array([0x89ABCDEF, 0x12345678, 0x00F0F0F0, float_bits(f), float_bits(g)], np.uint32)
    out = np.zeros(32, np.uint32)
    assert not emulator._call(
        emulator._c.shim_instructions, emulator._input(x), emulator._pointer(out)
    )
    a, b, c = (int(v) for v in x[:3])
    signed = a - 2**32
    table = [4 * (a >> i & 1) + 2 * (b >> i & 1) + (c >> i & 1) for i in range(32)]
    mix = sum((0xD8 >> row & 1) << i for i, row in enumerate(table))
    expected = [
        byte_perm(a, b, 0x7A41),
        (b << 5 | a >> 27) & 0xFFFFFFFF,
        (b << 23 | a >> 9) & 0xFFFFFFFF,
        int(f"{a:032b}"[::-1], 2),
        5,
        b.bit_count(),
        a * b >> 32,
        (signed * b >> 32) & 0xFFFFFFFF,
        a >> 7 & 0x1FF,
        0xFFFFFFF1,
        (b & ~(0xFFF << 5)) | (a & 0xFFF) << 5,
        mix,
        23,
        0,
        0xFFFFFFFF,
        (a * b >> 32) + c,
        a,
        0x80000000,
        3,
        float_bits(f),
        float_bits(np.float32(np.float64(f) * np.float64(g) - 1)),
        float_bits(np.sqrt(g)),
        float_bits(np.float32(1) / g),
        float_bits(f / g),
        0,  # NaN
        0x80000000,
        0x80000000,
        0,  # a subnormal number, taken for zero
    ]
    assert [hex(v) for v in out[: len(expected)]] == [hex(v) for v in expected]


def test_conversions_and_approximations(emulator):
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 65519, 65520, -65536, 1e-45, 2.0**-25, 2.0**-24]
    ties = [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 2.0**-25 * 1.001, 3e38]
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal(400) * 2.0 ** rng.integers(-30, 18, 400)
    x = np.array([*special, *ties, *drawn], np.float32)
    out = np.zeros((len(x), 8), np.uint32)
    arrays = emulator._input(x.view(np.uint32)), emulator._pointer(out)
    assert not emulator._call(emulator._c.shim_conversions, *arrays, len(x))

    number = ~np.isnan(x)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        bf16 = torch.tensor(x).bfloat16().view(torch.int16).numpy().view(np.uint16)
        bf16 = np.where(number, bf16, 0x7FFF).astype(np.uint32)
        f16 = np.where(number, x.astype(np.float16).view(np.uint16), 0x7FFF).astype(np.uint32)
        low = x.view(np.uint32).astype(np.uint16)
        flushed = np.where(np.abs(x) < 2.0**-126, np.copysign(np.float32(0), x), x)
        exact = np.exp2(flushed.astype(np.float64)), 1 / np.sqrt(flushed.astype(np.float64))
        approximations = [y.astype(np.float32) for y in exact]
    np.testing.assert_array_equal(out[:, 0], bf16)
    np.testing.assert_array_equal(out[:, 1], f16)
    np.testing.assert_array_equal(out[:, 2], low.astype(np.uint32) << 16)
    np.testing.assert_array_equal(
        out[:, 3].copy().view(np.float32), low.view(np.float16).astype(np.float32)
    )
    np.testing.assert_array_equal(out[:, 4], bf16 << 16 | bf16[::-1])
    np.testing.assert_array_equal(out[:, 5], f16 << 16 | f16[::-1])
    for k, expected in enumerate(approximations, 6):
        np.testing.assert_array_equal(
            out[:, k].copy().view(np.float32),
            np.where(np.abs(expected) < 2.0**-126, 0, expected).astype(np.float32),
        )


def test_vector_accesses(emulator):
    x = np.random.default_rng(0).integers(0, 2**32, 16, np.uint32)
    out = np.zeros(16, np.uint32)
    arrays = emulator._input(x.view(np.complex128)), emulator._pointer(out.view(np.complex128))
    assert not emulator._call(emulator._c.shim_vectors, *arrays)
    np.testing.assert_array_equal(out, x)


def byte_perm(a, b, selector):
    data = (a | b << 32).to_bytes(8, "little")
    found = b""
    for k in range(4):
        choice = selector >> 4 * k & 15
        byte = data[choice & 7]
        found += bytes([(255 if byte > 127 else 0) if choice & 8 else byte])
    return int.from_bytes(found, "little")


def test_contraction_changes_only_what_may_be_contracted(ptx_only, host_objects, tmp_path):
    """With the flags of the build nothing may be contracted; with nvcc's default the kernel
    differs."""
    found = {}
    for name, flags, contract_ in [
        ("as built", (), False),
        ("contracted", (), True),
        ("permitted", ("-fmad=true", "-Xcompiler", "-ffp-contract=off"), True),
    ]:
        one = build.build(
            tmp_path / name.replace(" ", "_"), host_objects, SOURCES[:1],
            match="product_and_sum", flags=flags, contract=contract_,
        )  # fmt: skip
        found[name] = run_defect(one, "product_and_sum")[1]
    np.testing.assert_array_equal(found["contracted"], found["as built"])
    assert (found["permitted"] != found["as built"]).any()


@pytest.fixture(scope="module")
def quick_kernels(host_objects, tmp_path_factory):
    """A kernel of each kind."""
    return build.build(tmp_path_factory.mktemp("quick"), host_objects, [HERE / "quick.cu"])


@pytest.fixture
def quick(quick_kernels):
    quick_kernels.configure()
    quick_kernels.use_device()
    return quick_kernels


QUICK = [
    ("huber", torch.float32, 33, "local"),
    ("huber", torch.float32, 1300, "local"),
    ("huber", torch.float32, 5000, "local"),
    ("huber", torch.float32, 33_000, "local"),
    ("truncated_quadratic", torch.float32, 500, "local"),
    ("welsch", torch.float32, 600, "global"),
]


@pytest.mark.parametrize("noise", [0, 2])
@pytest.mark.parametrize(("penalty", "dtype", "n", "solver"), QUICK)
def test_answers(penalty, dtype, n, solver, noise, quick):
    """In three orders of threads, and with perturbed approximate instructions."""
    rng = np.random.default_rng(n)
    x = rng.standard_normal((5 if n < 5000 else 2, n)) + 4 * (rng.random((1, n)) < 0.2)
    x = x.astype(np.float32 if dtype == torch.float32 else np.float64)
    quick.set_noise(noise)
    try:
        (y,) = in_every_schedule(quick, lambda: [quick.forward(x, penalty, solver=solver).y])
    finally:
        quick.set_noise(0)
    for points, found in zip(x.astype(np.float64), y.astype(np.float64), strict=True):
        if penalty == "huber" or solver == "global":
            contract.assert_answer(found, points, penalty, 1.0, dtype)
        else:
            d = contract.accuracy(found, 1.0, dtype)
            assert abs(ref.psi(found - points, penalty, 1.0).sum()) <= n * d


# Sets, points and shared memory for one warp or block, which uses each of its stages twice.
TILES = [
    ("huber", np.float32, 180, 33, 48),
    ("huber", np.float32, 180, 57, 64),
    ("truncated_quadratic", np.float32, 17, 500, 48),
    ("huber", np.float32, 5, 1300, 48),
    ("huber", np.float32, 5, 3000, 228),
]


@pytest.mark.parametrize(("penalty", "dtype", "count", "n", "shared_kib"), TILES)
def test_tiles_in_turn(penalty, dtype, count, n, shared_kib, quick):
    """Rows of any alignment, and strided ones, have the same bits."""
    x = np.random.default_rng(n).standard_normal((count, n)).astype(dtype)
    expected = quick.forward(x, penalty)
    quick.use_device(shared_kib=shared_kib)
    room = np.full((count, 2 * n), np.nan, dtype)
    # Of rows one point apart some are aligned to 16 bytes.
    for seed, view in enumerate((x, room[:, : n + 1].copy()[:, :n], room[:, ::2])):
        view[...] = x
        quick.configure(ORDERS[seed], seed, most_blocks=1)
        np.testing.assert_array_equal(quick.forward(view, penalty), expected)


@pytest.mark.parametrize("shared_kib", [228, 164, 100])
def test_the_quick_kernels_stay_within_every_architecture(shared_kib, quick):
    """Of compute capability 9.0, 8.0 and 8.6, at sizes that take most shared memory."""
    quick.use_device(shared_kib=shared_kib)
    for penalty, count, n, solver in (
        ("huber", 40, 63, "local"),
        ("huber", 1, 2048, "local"),
        ("huber", 1, 8192, "local"),
        ("welsch", 1, 2048, "global"),
    ):
        x = np.linspace(-1, 1, count * n, dtype=np.float32).reshape(count, n)
        quick.forward(x, penalty, solver=solver)
    quick.forward(np.linspace(-1, 1, 512, dtype=np.float32)[None], "truncated_quadratic")
    assert {name: use.excesses() for name, use in quick.uses().items() if use.excesses()} == {}


def test_no_kernel_leaves_anything_to_contract(ptx_only, tmp_path):
    """ptxas may fuse products and sums without .rn."""
    if reason := build.missing():
        pytest.skip(reason)
    for source in kernel_units():
        text = build.compile_ptx(source, tmp_path).read_text()
        assert not re.findall(r"\b(?:add|sub|mul)(?:\.ftz)?\.f(?:32|64)\b", text), source.name


def test_nothing_is_left_to_contract():
    """The translations of the quick kernels with and without contraction are identical."""
    if reason := build.missing():
        pytest.skip(reason)
    folder = build.KEPT / "contraction"
    folder.mkdir(parents=True, exist_ok=True)
    module = parser.parse_file(build.compile_ptx(HERE / "quick.cu", folder))
    for kernel in module.kernels():
        translator = KernelTranslator(module, kernel, contract=True)
        text = translator.translate().text
        assert translator.fused == 0
        assert text == KernelTranslator(module, kernel).translate().text


MEANS = "local_pipeline<Quadratic, float, Warp, false>(const __grid_constant__ LocalArgs)"
WARP = "local_pipeline<Huber, float, Warp, false>(const __grid_constant__ LocalArgs)"
BLOCK = "local_pipeline<Huber, float, Block<128>, false>(const __grid_constant__ LocalArgs)"
SEARCH = "global_shared_memory<Welsch, float, 128, false>(const __grid_constant__ GlobalArgs)"


def few_tiles():
    """Sets for several tiles of one warp. Some rows are aligned to 16 bytes, and some sets need a
    second list of the points near breakpoints."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 1301)).astype(np.float32)
    x[1::3] = np.where(rng.random(1301) < 0.7, 0, 40) + 0.3 * x[1::3]
    x[2::3] = np.where(rng.random(1301) < 0.8, 0, 3) + 0.7 * x[2::3]
    return x[:, :1300]


def run_warp(library, penalty="huber"):
    library.use_device(shared_kib=48)  # for one warp
    library.forward(few_tiles(), penalty)


def run_means(library):
    run_warp(library, "quadratic")


def run_block(library):
    x = np.random.default_rng(0).standard_normal((3, 3000)).astype(np.float32)
    library.use_device()
    library.forward(x, "huber")


def run_search(library):
    """A search whose passes end while some warps still read bounds that others discard."""
    broad = -3.5 + 7 * (np.arange(256) + 0.5) / 256
    narrow = 14 + np.where(np.arange(138) % 2, 0.9, -0.9)
    x = np.concatenate([broad, narrow]).astype(np.float32)[None]
    library.use_device()
    library.forward(x, "welsch", solver="global", max_iter=6)


COPY = r"(copy_async<width \* sizeof\(T\)>)\(to \+ i \+ k \* step, x\)"
PIPELINE_SYNC = r"    sync\(\);"
LIST_SYNC = r"Sharers::sync\(\);"
OVERWRITES = "(race|weakly ordered): overwrites what another thread read"
IN_FLIGHT = "race: reads what an asynchronous copy in flight writes"
MUTATIONS = [
    (
        Mutation("barrier before a reduction reads", "cuda/thread_group.cuh", BARRIER, "", 2),
        BLOCK,
        "race: |never written|divergent barriers",
    ),
    (
        Mutation(
            "mask of half a warp",
            "cuda/thread_group.cuh",
            r"reduce_lanes<Op>\(full_mask",
            "reduce_lanes<Op>(0xffffu",
        ),
        BLOCK,
        "lacks its caller|reads from inactive lane",
    ),
    (
        Mutation(
            "copy past the end",
            "cuda/stage_set.cuh",
            r"decltype\(whole\)::value \|\| i \+ k \* step < n",
            "true",
        ),
        BLOCK,
        "out of bounds",
    ),
    (
        Mutation(
            "misaligned copy",
            "cuda/stage_set.cuh",
            COPY,
            r"\1(to + i + k * step, reinterpret_cast<const char*>(x) + 2)",
        ),
        BLOCK,
        "misaligned access to global memory",
    ),
    (
        Mutation(
            "wide copies of rows that are not aligned",
            "cuda/stage_set.cuh",
            r" && reinterpret_cast<uintptr_t>\(x\) % 16 == 0",
            "",
        ),
        BLOCK,
        "misaligned access to global memory",
    ),
    (
        Mutation(
            "copy past its row", "cuda/stage_set.cuh", COPY, r"\1(to + i + k * step + 4 * n, x)"
        ),
        BLOCK,
        "access to shared memory out of bounds|never written",
    ),
    *(
        (Mutation(name, "cuda/local.cuh", PIPELINE_SYNC, "", nth), MEANS, message)
        for name, nth, message in (
            ("barrier after copies", 0, "race: reads what "),
            ("barrier before the next copies", 1, OVERWRITES),
        )
    ),
    (
        Mutation(
            "wait for few stages", "cuda/local.cuh", r"copies<few_stages - 1>", "copies<few_stages>"
        ),
        WARP,
        IN_FLIGHT,
    ),
    (
        Mutation(
            "rows of warps that overlap",
            "cuda/stage_set.cuh",
            r"\(capacity \+ multiple - 1\)",
            "(capacity - 1)",
        ),
        WARP,
        "race: ",
    ),
    *(
        (Mutation(name, "cuda/group_breakpoint_lister.cuh", LIST_SYNC, "", nth), WARP, message)
        for name, nth, message in (
            ("barrier before a list is overwritten", 0, OVERWRITES),
            ("barrier after a list", 1, "(race|weakly ordered): reads what |never written"),
        )
    ),
    (
        Mutation(
            "barrier before cells are discarded",
            "core/certify/grid_search.h",
            r"set_\.sync\(\);",
            "",
        ),
        SEARCH,
        "race: ",
    ),
    (
        Mutation(
            "order of a block's bound", "core/certify/grid_search.h", r"set_\.group_sync\(\);", ""
        ),
        SEARCH,
        "weakly ordered: ",
    ),
]


@pytest.mark.parametrize(
    ("mutation", "kernel", "message"), MUTATIONS, ids=[mutation.name for mutation, *_ in MUTATIONS]
)
def test_mutation_is_caught(mutation, kernel, message, ptx_only, host_objects, tmp_path):
    csrc = mutate(tmp_path, mutation)
    source = csrc / "mutant.cu"
    source.write_text(
        '#include "cuda/global.cuh"\n#include "cuda/local.cuh"\n'
        f"namespace ddn::cuda {{\ntemplate __global__ void {kernel};\n}}\n"
    )
    broken = build.build(tmp_path / "ptx", host_objects, [source], csrc=csrc)
    run = {MEANS: run_means, WARP: run_warp, BLOCK: run_block, SEARCH: run_search}[kernel]

    def run_in_all_orders():
        for order in ORDERS:
            broken.configure(order)
            run(broken)

    with pytest.raises(ShimError, match=message):
        run_in_all_orders()


def test_the_mutants_workloads_are_sound(quick):
    for order in ORDERS:
        quick.configure(order)
        run_means(quick)
        run_warp(quick)
        run_block(quick)
        run_search(quick)
