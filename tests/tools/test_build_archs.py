"""The architectures that a build is for, on simulated machines."""

import types

import pytest
import torch

from build_config import BuildError, choose_archs, torch_archs

TORCH_ARCHS = ["sm_75", "sm_80", "sm_90", "sm_120", "compute_120"]


def archs(setting, torch_archs=TORCH_ARCHS, gpus=()):
    return choose_archs(setting, torch_archs, lambda: gpus)


@pytest.mark.parametrize("setting", [None, "", " ; "])
def test_default_is_torchs_list_from_8_0_on_with_ptx_of_the_newest(setting):
    assert archs(setting) == "8.0;9.0;12.0+PTX"


def test_default_keeps_the_order_of_versions_and_their_suffixes():
    assert archs(None, ["sm_100", "sm_90a", "sm_86", "sm_90"]) == "8.6;9.0;9.0a;10.0+PTX"


def test_default_without_a_usable_architecture():
    with pytest.raises(BuildError, match="set TORCH_CUDA_ARCH_LIST"):
        archs(None, ["sm_70", "compute_75"])


def stub_torch(listed, flags, cuda="13.0"):
    """A stand-in for torch with the members that torch_archs() uses."""
    internals = {} if flags == "absent" else {"_cuda_getArchFlags": lambda: flags}
    return types.SimpleNamespace(
        version=types.SimpleNamespace(cuda=cuda),
        cuda=types.SimpleNamespace(get_arch_list=lambda: listed),
        _C=types.SimpleNamespace(**internals),
    )


@pytest.mark.parametrize(
    ("stub", "expected"),
    [
        (stub_torch(TORCH_ARCHS, "unused"), TORCH_ARCHS),
        (stub_torch([], " ".join(TORCH_ARCHS)), TORCH_ARCHS),  # torch 2.11 without a GPU
        (stub_torch([], None), []),
        (stub_torch([], "absent"), []),
        (stub_torch([], "sm_90", cuda=None), []),
    ],
)
def test_architectures_of_torch_without_a_gpu(stub, expected):
    assert torch_archs(stub) == expected


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
def test_an_installed_torch_with_cuda_names_architectures_without_a_gpu():
    assert archs(None, torch_archs(torch)).endswith("+PTX")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("8.0;9.0", "8.0;9.0"),
        ("7.5 8.0 9.0+PTX", "8.0;9.0+PTX"),
        ("9.0a", "9.0a"),
        ("Hopper", "Hopper"),
        ("6.1;7.0+PTX;8.6;", "8.6"),
    ],
)
def test_a_given_list_is_taken_as_written_from_8_0_on(setting, expected):
    assert archs(setting) == expected


def test_a_given_list_of_old_architectures_alone_is_refused():
    with pytest.raises(BuildError, match=r"names no architecture from 8\.0 on"):
        archs("7.0;7.5+PTX")


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ([(9, 0)], "9.0"),
        ([(9, 0), (8, 6), (9, 0)], "8.6;9.0"),
        ([(8, 9)], "8.9"),
        ([(7, 5), (8, 0)], "8.0"),
        ([(13, 0)], "12.0+PTX"),
        ([(9, 0), (13, 0)], "9.0;12.0+PTX"),
        ([], "8.0;9.0;12.0+PTX"),
        ([(7, 5)], "8.0;9.0;12.0+PTX"),
    ],
)
def test_native_is_the_gpus_present_or_the_default(gpus, expected):
    assert archs("native", gpus=gpus) == expected
