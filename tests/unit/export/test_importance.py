"""The importance matrix, and what is made of several measured files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medimind.cases.case import Case
from medimind.config import ModelConfig
from medimind.config.prompt import PromptConfig
from medimind.export.deliver import Delivered, better_base
from medimind.export.gguf import GgufFileWritten
from medimind.export.gguf.importance import measure_importance
from medimind.export.verify import Fidelity
from medimind.models.load import load_model
from medimind.prompts.render import render_training
from medimind.prompts.templates import get_template
from tiny_checkpoints import write_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("importance") / "base", "qwen3")
    return load_model(ModelConfig(path=str(folder), quantization="none", device="cpu"))


def prompt(model, question):
    case = Case(id="1", question=question, response="step by step")
    template = get_template(PromptConfig(template="chatml"))
    return render_training(case, template=template, tokenizer=model.tokenizer)


def test_it_is_the_mean_square_of_what_each_column_is_multiplied_with(model):
    prompts = [prompt(model, "pain"), prompt(model, "the patient has pain and more")]
    found = measure_importance(model, prompts)
    assert len(found) == 2 * 7  # every projection of both layers
    # The first query projection sees the normalised embedding, which can be computed apart.
    ids = torch.from_numpy(np.concatenate([one.token_ids_S for one in prompts]).astype(np.int64))
    rows = model.decoder.get_parameter("model.embed_tokens.weight").detach()[ids].float()
    norm = model.decoder.get_parameter("model.layers.0.input_layernorm.weight").detach()
    scale = torch.rsqrt(rows.square().mean(dim=1, keepdim=True) + 1e-6)
    expected = (rows * scale * norm).square().mean(dim=0)
    assert found["blk.0.attn_q.weight"] == pytest.approx(expected.numpy(), rel=1e-4)
    assert found["blk.0.attn_q.weight"] == pytest.approx(found["blk.0.attn_v.weight"])
    assert found["blk.1.ffn_down.weight"].shape == (96,)
    assert all((values > 0).all() for values in found.values())


def test_it_leaves_nothing_behind_on_the_model(model):
    done = []
    measure_importance(model, [prompt(model, "a")], progress=lambda *at: done.append(at))
    assert done == [(1, 1)]
    assert not any(one._forward_pre_hooks for _, one in model.decoder.projections())


def delivered(base, kl):
    file = GgufFileWritten(Path("m.gguf"), "q8_0", 1, {}, 0.0)
    found = Fidelity(4, kl, kl, 1.0, 1, 1, 1) if kl is not None else None
    return Delivered(file, base, found, ())


def test_the_closer_base_is_named_by_all_its_files():
    files = [delivered("trained", 0.01), delivered("trained", 0.03), delivered("original", 0.025)]
    assert better_base(files) == "trained"
    assert better_base([*files, delivered("original", 0.001)]) == "original"


def test_one_base_or_unverified_files_are_no_comparison():
    assert better_base([delivered("trained", 0.01)]) is None
    assert better_base([delivered("trained", 0.01), delivered("original", None)]) is None
