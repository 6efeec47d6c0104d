"""Invalid input raises before any work. A message names the argument, its value and the accepted
values."""

import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import ddn_cuda
from ddn_cuda import compat

X = (3, 4, 5)  # the default shape of x


def points(shape=X, **options):
    return torch.ones(shape, **options)


# Each row: arguments, the exception, the argument that it names, and patterns of its message (given
# and accepted). Tensors are given as functions that create them on the device under test.
SCHEMA = [  # through the function and through the operator
    ({"penalty": "l1"}, ValueError, "penalty", ("'l1'", "truncated_quadratic", "TQ", "huber")),
    ({"penalty": ""}, ValueError, "penalty", ("''", "quadratic", "Q", "pseudo_huber", "PH")),
    ({"penalty": "Huber"}, ValueError, "penalty", ("'Huber'", r"huber \(H\)", r"welsch \(W\)")),
    ({"alpha": 0.0}, ValueError, "alpha", ("0", "1e-15", r"1e\+15")),
    ({"alpha": -1.0}, ValueError, "alpha", ("-1", "positive|finite")),
    ({"alpha": math.nan}, ValueError, "alpha", ("nan", "finite")),
    ({"alpha": math.inf}, ValueError, "alpha", ("inf", "finite")),
    ({"alpha": -math.inf}, ValueError, "alpha", ("-inf", "finite")),
    ({"alpha": 0.99e-15}, ValueError, "alpha", ("9.9e-16", "1e-15")),
    ({"alpha": 1.01e15}, ValueError, "alpha", (r"1.01e\+15", r"1e\+15")),
    ({"dim": [3]}, IndexError, "dim", (r"\[3\]", "3 dims", "-3 to 2")),
    ({"dim": [-4]}, IndexError, "dim", (r"\[-4\]", "-3 to 2")),
    ({"dim": [0, 9]}, IndexError, "dim", (r"\[0, 9\]", "-3 to 2")),
    ({"dim": [1, 1]}, ValueError, "dim", (r"\[1, 1\]", "distinct")),
    ({"dim": [0, -3]}, ValueError, "dim", (r"\[0, -3\]", "distinct")),
    ({"solver": "newton"}, ValueError, "solver", ("'newton'", "'local'", "'global'")),
    ({"max_iter": 0}, ValueError, "max_iter", ("0", "positive")),
    ({"max_iter": -3}, ValueError, "max_iter", ("-3", "positive")),
    ({"tol": 0.0}, ValueError, "tol", ("0", "positive")),
    ({"tol": -1e-3}, ValueError, "tol", ("-0.001", "positive")),
    ({"tol": math.nan}, ValueError, "tol", ("nan", "positive")),
    ({"x": lambda: points(dtype=torch.int64)}, TypeError, "x", ("Long|int64", "floating")),
    ({"x": lambda: points(dtype=torch.bool)}, TypeError, "x", ("[Bb]ool", "floating")),
    ({"x": lambda: points(dtype=torch.complex64)}, TypeError, "x", ("[Cc]omplex", "floating")),
    (
        {"x": lambda: points().to(torch.float8_e5m2)},
        TypeError,
        "x",
        ("Float8_e5m2", "Float, Double, Half or BFloat16"),
    ),
    ({"x": lambda: points((3, 0))}, ValueError, "x", (r"\[3, 0\]", "dim 1", "at least one")),
    ({"x": lambda: points((0,))}, ValueError, "x", (r"\[0\]", "at least one")),
    (
        {"x": lambda: points((2, 0, 3)), "dim": [0, 1]},
        ValueError,
        "x",
        (r"\[2, 0, 3\]", "dim 1", "at least one"),
    ),
    ({"x": lambda: points((0, 0)), "dim": []}, ValueError, "x", (r"\[0, 0\]", "at least one")),
    (
        {"alpha": lambda: points((1,)).abs().to(torch.float8_e5m2)},
        TypeError,
        "alpha",
        ("Float8_e5m2", "Float, Double, Half or BFloat16"),
    ),
    ({"weight": lambda: points((5,), dtype=torch.int64)}, TypeError, "weight", ("Long", "Bool")),
    (
        {"weight": lambda: points((5,)).to(torch.float8_e4m3fn)},
        TypeError,
        "weight",
        ("Float8_e4m3fn", "Float, Double, Half or BFloat16", "Bool"),
    ),
    (
        {"weight": lambda: points((5,), dtype=torch.complex64)},
        TypeError,
        "weight",
        ("Complex", "floating"),
    ),
    ({"weight": lambda: points((4,))}, ValueError, "weight", (r"\[4\]", r"\[3, 4, 5\]")),
    ({"weight": lambda: points((2, 1))}, ValueError, "weight", (r"\[2, 1\]", "broadcast")),
    ({"weight": lambda: points((1, 3, 4, 5))}, ValueError, "weight", ("1, 3, 4, 5", "broadcast")),
    (
        {"weight": lambda: torch.ones((), device="meta")},
        ValueError,
        "weight",
        ("meta", "cpu|cuda", "same device"),
    ),
    (
        {"weight": lambda: torch.ones(5).to_sparse()},
        TypeError,
        "weight",
        ("[Ss]parse", "dense"),
    ),
    ({"alpha": lambda: torch.ones(1).to_sparse()}, TypeError, "alpha", ("[Ss]parse", "dense")),
    ({"alpha": lambda: points((), dtype=torch.int64)}, TypeError, "alpha", ("Long", "floating")),
    ({"alpha": lambda: points((), dtype=torch.bool)}, TypeError, "alpha", ("Bool", "floating")),
    (
        {"alpha": lambda: points((), dtype=torch.complex64)},
        TypeError,
        "alpha",
        ("ComplexFloat", "floating"),
    ),
    ({"alpha": lambda: points((5,))}, ValueError, "alpha", (r"\[5\]", r"\[3, 4, 5\]", "keepdim")),
    ({"alpha": lambda: points((4,))}, ValueError, "alpha", (r"\[4\]", "broadcast", "keepdim")),
    ({"alpha": lambda: points((3, 4))}, ValueError, "alpha", (r"\[3, 4\]", "broadcast")),
    ({"alpha": lambda: points((2, 1))}, ValueError, "alpha", (r"\[2, 1\]", "broadcast")),
    ({"alpha": lambda: points((0, 1))}, ValueError, "alpha", (r"\[0, 1\]", "broadcast")),
    (
        {"alpha": lambda: points((1, 3, 4, 1))},
        ValueError,
        "alpha",
        (r"\[1, 3, 4, 1\]", "broadcast"),
    ),
    (
        {"alpha": lambda: points((1, 4, 5)), "dim": [0, 1]},
        ValueError,
        "alpha",
        (r"\[1, 4, 5\]", r"\[0, 1\]", "broadcast"),
    ),
    (
        {"alpha": lambda: torch.ones((), device="meta")},
        ValueError,
        "alpha",
        ("meta", "cpu|cuda", "same device"),
    ),
]
PYTHON = [  # arguments of the function only
    ({"return_info": 1}, TypeError, "return_info", ("1", "True or False")),
    ({"validate": None}, TypeError, "validate", ("None", "True or False")),
    ({"x": lambda: [1.0, 2.0]}, TypeError, "x", (r"\[1.0, 2.0\]", "a tensor")),
    ({"penalty": None}, TypeError, "penalty", ("None", "a string")),
    ({"dim": 1.0}, TypeError, "dim", ("1.0", "an int or several")),
    ({"dim": True}, TypeError, "dim", ("True", "an int or several")),
    ({"dim": None}, TypeError, "dim", ("None", "an int or several")),
    ({"weight": 2.0}, TypeError, "weight", ("2.0", "a tensor or None")),
    ({"max_iter": 1.5}, TypeError, "max_iter", ("1.5", "a positive int or None")),
    ({"tol": "1"}, TypeError, "tol", ("'1'", "a positive float or None")),
    ({"keepdim": 1}, TypeError, "keepdim", ("1", "True or False")),
    ({"alpha": "1"}, TypeError, "alpha", ("'1'", "float")),
    ({"alpha": None}, TypeError, "alpha", ("None", "float")),
    ({"alpha": True}, TypeError, "alpha", ("True", "float")),
    ({"alpha": 1 + 0j}, TypeError, "alpha", ("1", "float")),
    ({"alpha": [1.0]}, TypeError, "alpha", (r"\[1.0\]", "float")),
    ({"dim": 3}, IndexError, "dim", ("3", "-3 to 2")),
    ({"dim": (2, 2)}, ValueError, "dim", ("2, 2", "distinct")),
    (
        {"alpha": lambda: points((3, 4, 1)) - 1, "validate": True},
        ValueError,
        "alpha",
        ("0", "positive"),
    ),
    (
        {"alpha": lambda: points((4, 1)).fill_(math.nan), "validate": True},
        ValueError,
        "alpha",
        ("nan", "positive"),
    ),
    (
        {"alpha": lambda: points((4, 1)).fill_(math.inf), "validate": True},
        ValueError,
        "alpha",
        ("inf", "finite"),
    ),
    (  # whose limits would be 0 and infinity in 16 bits
        {"alpha": lambda: points((4, 1)).half().fill_(0), "validate": True},
        ValueError,
        "alpha",
        ("0.0", "positive"),
    ),
    (
        {"alpha": lambda: points((4, 1)).half().fill_(math.inf), "validate": True},
        ValueError,
        "alpha",
        ("inf", "finite"),
    ),
    (
        {"weight": lambda: points() - 2, "validate": True},
        ValueError,
        "weight",
        ("-1", "non-negative"),
    ),
    (
        {"weight": lambda: points((5,)).fill_(math.nan), "validate": True},
        ValueError,
        "weight",
        ("nan", "non-negative"),
    ),
]
BEYOND_C = [  # numbers and names of Python that C++'s types cannot hold
    ({"alpha": 10**400}, ValueError, "alpha", ("an int of 1329 bits", "1e-15", r"1e\+15")),
    ({"alpha": -(10**5000)}, ValueError, "alpha", ("bits", "1e-15")),
    ({"alpha": 2**63}, ValueError, "alpha", (r"9.22337e\+18", "1e-15")),
    ({"alpha": Fraction(10**400, 3)}, ValueError, "alpha", ("bits", "1e-15")),
    ({"tol": 10**400}, ValueError, "tol", ("bits", "positive finite")),
    ({"max_iter": 2**63}, ValueError, "max_iter", (str(2**63), "int")),
    ({"max_iter": -(2**63) - 1}, ValueError, "max_iter", (str(-(2**63) - 1), "int")),
    ({"dim": 2**63}, IndexError, "dim", (str(2**63), "-3 to 2")),
    ({"dim": (0, -(10**400))}, IndexError, "dim", ("bits", "-3 to 2")),
    ({"penalty": "\ud800"}, ValueError, "penalty", (r"'\\ud800'", "huber")),
    ({"penalty": "huber\0"}, ValueError, "penalty", (r"'huber\\x00'", r"huber \(H\)")),
    ({"solver": "local\0x"}, ValueError, "solver", (r"'local\\x00x'", "'local'", "'global'")),
    ({"solver": "l\udcff"}, ValueError, "solver", (r"'l\\udcff'", "'local' or 'global'")),
    ({"penalty": "hüber"}, ValueError, "penalty", ("'hüber'", "huber")),
]
ROWS = [("function", *row) for row in [*SCHEMA, *PYTHON, *BEYOND_C]] + [
    ("operator", *row) for row in SCHEMA
]
IDS = [f"{face}-{argument}-{i}" for i, (face, _, _, argument, _) in enumerate(ROWS)]


@pytest.mark.parametrize(("face", "arguments", "error", "argument", "parts"), ROWS, ids=IDS)
def test_bad_input(face, arguments, error, argument, parts, device):
    with device:
        options = {k: v() if callable(v) else v for k, v in arguments.items()}
        x = options.pop("x", None)
        x = points() if x is None else x
    pool = ddn_cuda.robust_pool if face == "function" else torch.ops.ddn.robust_pool
    with pytest.raises(error) as raised:
        pool(x, **options)
    assert type(raised.value) is error
    message = str(raised.value).splitlines()[0]
    assert message.startswith(f"robust_pool: `{argument}` ")
    given, _, accepted = message.partition("; expected ")
    assert accepted, message
    for part in parts:
        assert re.search(part, message), f"{part!r} is not in {message!r}"
    assert re.search(parts[0], given), f"{parts[0]!r}, which was given, is not in {given!r}"


@pytest.mark.parametrize("row", BEYOND_C, ids=[f"{row[2]}-{i}" for i, row in enumerate(BEYOND_C)])
def test_bad_input_of_the_other_functions(row, device):
    """Those that take the argument."""
    arguments, error, argument, parts = row
    x = points(device=device)
    calls = {
        "segment_robust_pool": lambda **given: ddn_cuda.segment_robust_pool(
            x, torch.tensor([0, 3], device=device), **given
        ),
        "suggest_alpha": lambda **given: ddn_cuda.suggest_alpha(x, **given),
        "RobustPool": lambda **given: ddn_cuda.RobustPool(**given).to(device)(x),
    }
    taken = {"dim": {"suggest_alpha", "RobustPool"}, "penalty": {*calls}}
    for name in taken.get(argument, {"segment_robust_pool", "RobustPool"}):
        if name == "RobustPool" and parts[0].startswith("9.22"):
            continue  # within the module's range, which is that of float64 points
        with pytest.raises(error, match=rf": `{argument}` is .*{parts[0]}.*; expected "):
            calls[name](**arguments)


@pytest.mark.parametrize("alpha", [10**400, -(10**5000)], ids=["400", "5000"])
def test_an_alpha_that_no_float_holds_in_compat(alpha):
    with pytest.raises(ValueError, match=r"^RobustGlobalPool2d: `alpha` is an int of \d+ bits"):
        compat.RobustGlobalPool2d(compat.Huber, alpha)


@pytest.mark.parametrize(
    ("dtype", "good", "bad"),
    [
        (torch.float32, (1e-15, 1e15), (0.9e-15, 1.1e15)),
        (torch.float64, (1e-30, 1e30), (0.9e-30, 1.1e30)),
    ],
    ids=["float32", "float64"],
)
def test_the_range_of_alpha(dtype, good, bad, penalty, device):
    x = torch.randn(7, dtype=dtype, device=device)
    for alpha in good:
        assert torch.isfinite(ddn_cuda.robust_pool(x, penalty, alpha))
    for alpha in bad:
        with pytest.raises(ValueError, match="`alpha` is"):
            ddn_cuda.robust_pool(x, penalty, alpha)


def test_numbers_of_numpy(device):
    x = torch.randn(4, 7, device=device)
    expected = ddn_cuda.robust_pool(x, "welsch", 0.5, dim=0, max_iter=3, tol=0.25)
    assert torch.equal(
        expected,
        ddn_cuda.robust_pool(
            x,
            "welsch",
            np.float32(0.5),
            dim=np.int64(0),
            max_iter=np.int32(3),
            tol=np.float32(0.25),
        ),
    )
    every = ddn_cuda.robust_pool(x, "welsch", np.int64(1), dim=(np.int64(0), np.int64(1)))
    assert torch.equal(every, ddn_cuda.robust_pool(x, "welsch", 1, dim=()))
    pool = ddn_cuda.RobustPool("welsch", np.float32(0.5), dim=np.int64(0)).to(device)
    assert torch.equal(pool(x), ddn_cuda.robust_pool(x, "welsch", 0.5, dim=0))
    ptr = torch.tensor([0, 1, 4], device=device)
    assert torch.equal(
        ddn_cuda.segment_robust_pool(x, ptr, alpha=np.float16(0.5)),
        ddn_cuda.segment_robust_pool(x, ptr, alpha=0.5),
    )
    assert torch.equal(
        ddn_cuda.robust_pool(x, alpha=Fraction(1, 2)), ddn_cuda.robust_pool(x, alpha=0.5)
    )
    for alpha in (Fraction(1, 2), 2**64, 10**29):
        assert ddn_cuda.RobustPool(alpha=alpha).alpha == float(alpha)
    for alpha in (np.bool_(True), Decimal("0.5"), np.array(0.5)):
        with pytest.raises(TypeError, match=r"`alpha` is .*expected a float"):
            ddn_cuda.robust_pool(x, alpha=alpha)


def test_validate_accepts_good_values(device):
    x = torch.randn(4, 7, device=device)
    alpha = torch.rand(4, 1, device=device) + 0.1
    checked = ddn_cuda.robust_pool(x, alpha=alpha, validate=True)
    assert torch.equal(checked, ddn_cuda.robust_pool(x, alpha=alpha))


def test_alpha_on_another_device(device):
    if device.type == "cpu":
        pytest.skip("needs two devices: the CPU and a CUDA device")
    with pytest.raises(ValueError, match="`alpha` is on cpu"):
        ddn_cuda.robust_pool(torch.ones(3, device=device), alpha=torch.tensor(1.0))


def test_errors_come_before_any_work(device):
    """A set too large for any memory is rejected because of its penalty."""
    x = torch.zeros(1, device=device).expand(2**40, 2)
    with pytest.raises(ValueError, match="`penalty`"):
        ddn_cuda.robust_pool(x, "l1")
    with pytest.raises(ValueError, match="`max_iter`"):
        ddn_cuda.robust_pool(x, max_iter=0)
    with pytest.raises(ValueError, match="`tol`"):
        ddn_cuda.robust_pool(x, tol=-1.0)


@pytest.mark.parametrize("x", [[1.0, 2.0], 3.0, "x", None], ids=str)
def test_no_tensor(x):
    """PyTorch's type errors from schema matching keep their message."""
    with pytest.raises((TypeError, RuntimeError), match="x"):
        ddn_cuda.robust_pool(x)
