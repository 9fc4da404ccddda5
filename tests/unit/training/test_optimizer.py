"""AdamW in 32 and 8 bits: the same update, moments saved and put back bit for bit."""

from __future__ import annotations

import pytest
import torch
from tiny_training import Recorder, adapter_bytes, make_config, make_model, run

from medimind.errors import MissingExtraError, ResumeError
from medimind.training.optimizer import load_optimizer, make_optimizer, save_optimizer

NAMES = ["adamw", "adamw_8bit"]
SHAPES = {"wide": (96, 128), "small": (4, 8), "odd": (33, 131)}


def _parameters(device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator).to(device))
        for name, shape in SHAPES.items()
    }


def _make(parameters, name):
    return make_optimizer(parameters, name=name, betas=(0.9, 0.99), epsilon=1e-8, weight_decay=0.1)


def _steps(optimizer, parameters, seeds):
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in parameters.values():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient.to(parameter.device)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / seed
        optimizer.step()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", NAMES)
def test_moments_put_back_go_on_bit_for_bit(tmp_path, name, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    whole, cut = _parameters(device), _parameters(device)
    optimizer = _make(whole, name)
    _steps(optimizer, whole, [1, 2, 3])
    save_optimizer(tmp_path / "o", optimizer, parameters=whole)
    with torch.no_grad():
        for key, parameter in cut.items():
            parameter.copy_(whole[key])
    _steps(optimizer, whole, [4, 5])
    resumed = _make(cut, name)
    load_optimizer(tmp_path / "o", resumed, parameters=cut, step=3)
    _steps(resumed, cut, [4, 5])
    assert all(torch.equal(whole[key], cut[key]) for key in SHAPES)


def test_8_bits_hold_a_quarter_and_move_alike(tmp_path):
    found, sizes = {}, {}
    for name in NAMES:
        parameters = _parameters()
        optimizer = _make(parameters, name)
        _steps(optimizer, parameters, range(1, 9))
        save_optimizer(tmp_path / name, optimizer, parameters=parameters)
        found[name], sizes[name] = parameters, (tmp_path / name).stat().st_size
    assert sizes["adamw_8bit"] < 0.4 * sizes["adamw"]
    start = _parameters()
    for key in SHAPES:
        moved = found["adamw"][key] - start[key]
        other = found["adamw_8bit"][key] - start[key]
        assert (moved - other).norm() < 0.1 * moved.norm()


def test_moments_of_the_other_kind_are_refused(tmp_path):
    parameters = _parameters()
    optimizer = _make(parameters, "adamw")
    _steps(optimizer, parameters, [1])
    save_optimizer(tmp_path / "o", optimizer, parameters=parameters)
    with pytest.raises(ResumeError, match=r"wide\.state1 is missing"):
        load_optimizer(
            tmp_path / "o", _make(parameters, "adamw_8bit"), parameters=parameters, step=1
        )


def test_a_run_in_8_bits_resumes_bit_for_bit(tmp_path):
    class Killed(BaseException):
        pass

    def kill_at_five(step):
        if step == 5:
            raise Killed

    config = make_config(optimizer="adamw_8bit")
    run(tmp_path / "whole", config=config)
    with pytest.raises(Killed):
        run(tmp_path / "cut", config=config, tracker=Recorder(kill_at_five))
    assert run(tmp_path / "cut", config=config, resume=True).resumed_from == 3
    assert adapter_bytes(tmp_path / "cut") == adapter_bytes(tmp_path / "whole")
    with pytest.raises(ResumeError, match=r"train\.optimizer was adamw_8bit, now adamw"):
        run(tmp_path / "whole", config=make_config(), model=make_model(), resume=True)


def test_without_bitsandbytes_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'medimind\[adamw-8bit\]'"):
        _make(_parameters(), "adamw_8bit")
