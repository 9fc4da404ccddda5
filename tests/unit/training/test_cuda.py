from __future__ import annotations

import pytest
import torch
from tiny_training import Recorder, adapter_bytes, make_config, make_model, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]


class Killed(BaseException):
    pass


def kill_at_five(step):
    if step == 5:
        raise Killed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_resumed_run_is_bit_identical_on_a_card(tmp_path, dtype, dropout):
    def model():
        return make_model(dtype=dtype, dropout=dropout, device="cuda")

    result = run(tmp_path / "whole", model=model())
    assert result.history[-1]["train/peak_memory_gib"] > 0
    with pytest.raises(Killed):
        run(tmp_path / "cut", model=model(), tracker=Recorder(kill_at_five))
    assert run(tmp_path / "cut", model=model(), resume=True).resumed_from == 3
    assert adapter_bytes(tmp_path / "cut") == adapter_bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float16, 5e-3)]
)
def test_losses_are_those_of_the_cpu(tmp_path, dtype, tolerance):
    config = make_config(steps=12)
    on_card = run(tmp_path / "a", config=config, model=make_model(dtype=dtype, device="cuda"))
    on_cpu = run(tmp_path / "b", config=config)
    assert [r["train/loss"] for r in on_card.history] == pytest.approx(
        [r["train/loss"] for r in on_cpu.history], rel=tolerance
    )
