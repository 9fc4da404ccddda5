"""The three arms on a tiny real model: what is measured, and what a kill leaves."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_builders import make_case

from medimind.config import DecodingConfig, EvaluationConfig, ModelConfig, PromptConfig
from medimind.errors import EvaluationError, PromptError
from medimind.evaluation import items, measure
from medimind.evaluation.before_after import compare_before_after
from medimind.evaluation.outputs import rescore
from medimind.evaluation.records import read_records
from medimind.evaluation.statistics import holm
from medimind.models.generate import Generation, generate
from medimind.models.load import Model, load_model
from medimind.models.lora import adapter_digest, adapter_disabled, attach_lora, lora_parameters
from medimind.models.options import Choice, option_logprobs
from medimind.prompts.render import render_inference, render_training
from medimind.prompts.templates import get_template
from tiny_checkpoints import write_folder

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATE = get_template(PromptConfig(template="chatml", system=""))
OPTIONS = ("flu", "cold")


def cases(num: int = 5):
    made = [
        make_case(
            index,
            question="pain " * (1 + index),
            reasoning="think of the patient",
            response="the patient has flu",
            answer="flu",
            options=OPTIONS,
            answer_index=index % 2,
        )
        for index in range(num)
    ]
    return [
        c if i != 2 else make_case(2, question="why pain", options=(), answer_index=None)
        for i, c in enumerate(made)
    ]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    path = write_folder(
        tmp_path_factory.mktemp("evaluated") / "llama", "llama", max_position_embeddings=1024
    )
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template": CHAT_TEMPLATE})
    )
    return path


@pytest.fixture
def model(folder) -> Model:
    loaded = load_model(ModelConfig(path=str(folder), quantization="none", device="cpu"))
    attach_lora(loaded.decoder, rank=4, alpha=8, seed=1)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in lora_parameters(loaded.decoder).items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    return loaded


def config(**changes) -> EvaluationConfig:
    values = {
        "decoding": DecodingConfig(max_new_tokens=12, thinking_budget=6, batch_size=2),
        "bootstrap_samples": 200,
        **changes,
    }
    return EvaluationConfig(**values)


def evaluate(model: Model, folder: Path, *, num: int = 5, progress=None, context=None, **changes):
    return compare_before_after(
        model,
        cases(num),
        template=TEMPLATE,
        config=config(**changes),
        folder=folder,
        progress=progress,
        context=context,
    )


def test_all_arms_are_measured_on_all_cases(model, tmp_path) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluation = evaluate(model, tmp_path, progress=lambda *step: seen.append(step))
    assert [arm.name for arm in evaluation.arms] == ["base_native", "base", "tuned"]
    assert [(c.before, c.after) for c in evaluation.comparisons] == [
        ("base", "tuned"),
        ("base_native", "tuned"),
    ]
    assert all(arm.num_asked == arm.num_scored == 5 for arm in evaluation.arms)
    names = {metric.name for metric in evaluation.main.metrics}
    assert {"answer_accuracy", "likelihood_accuracy", "loss", "well_formed"} <= names
    assert evaluation.comparisons[1].metric("loss") is None
    likelihood = evaluation.main.metric("likelihood_accuracy")
    assert likelihood is not None
    assert likelihood.num_cases == 4  # one of the five is an open question
    assert [step for step in seen if step[0] == "tuned"] == [
        ("tuned", 0, 5),
        ("tuned", 2, 5),
        ("tuned", 4, 5),
        ("tuned", 5, 5),
    ]
    assert evaluation.settings.adapter_sha256 == adapter_digest(model.decoder)
    assert evaluation.notes == ()
    for arm in ("base_native", "base", "tuned"):
        records = read_records(tmp_path / f"{arm}.jsonl").records
        assert [r.case_id for r in records] == list(evaluation.case_ids)
        assert all(record.prompt and record.output is not None for record in records)
    assert read_records(tmp_path / "base_native.jsonl").records[0].prompt != (
        read_records(tmp_path / "base.jsonl").records[0].prompt
    )


def test_p_values_are_adjusted_over_both_base_arms(model, tmp_path) -> None:
    """They stand in one report and lead to one verdict."""
    evaluation = evaluate(model, tmp_path)
    for is_primary in (True, False):
        group = [
            metric
            for comparison in evaluation.comparisons
            for metric in comparison.metrics
            if metric.is_primary == is_primary
        ]
        assert [one.adjusted_p_value for one in group] == holm([one.p_value for one in group])


def test_losses_are_the_models_own(model, tmp_path) -> None:
    """Loss of one case, its reasoning and its response, by the plain softmax of each token."""
    evaluate(model, tmp_path, native_template=False)
    case = cases()[0]
    prompt = render_training(case, template=TEMPLATE, tokenizer=model.tokenizer)
    ids = torch.from_numpy(prompt.token_ids_S.astype(np.int64))
    for arm in ("base", "tuned"):
        record = read_records(tmp_path / f"{arm}.jsonl").records[0]
        with torch.no_grad():
            if arm == "base":
                with adapter_disabled(model.decoder):
                    logprobs = plain_logprobs(model, ids)
            else:
                logprobs = plain_logprobs(model, ids)
        start, split = prompt.prompt_length - 1, prompt.num_reasoning_targets
        losses = -logprobs[torch.arange(len(ids) - 1), ids[1:]][start:]
        assert record.loss == pytest.approx(float(losses.mean()), rel=1e-5)
        assert record.loss_reasoning == pytest.approx(float(losses[:split].mean()), rel=1e-5)
        assert record.loss_response == pytest.approx(float(losses[split:].mean()), rel=1e-5)
        assert record.num_reasoning_targets == split
        assert record.num_response_targets == len(losses) - split


def plain_logprobs(model: Model, ids: torch.Tensor) -> torch.Tensor:
    hidden = model.decoder.hidden_states(
        ids,
        torch.arange(len(ids)),
        cu_seqlens=torch.tensor([0, len(ids)], dtype=torch.int32),
        max_seqlen=len(ids),
    )
    return model.decoder.logits(model.decoder.final_norm(hidden)).log_softmax(-1)


def test_outputs_are_generates_and_options_are_scored_after_an_empty_thinking(
    model, tmp_path
) -> None:
    evaluate(model, tmp_path, native_template=False)
    case = cases()[1]
    record = read_records(tmp_path / "tuned.jsonl").records[1]
    prompt = render_inference(case, template=TEMPLATE, tokenizer=model.tokenizer)
    (alone,) = generate(
        model, [prompt], max_new_tokens=12, thinking_budget=6, stop=TEMPLATE.stop, batch_size=1
    )
    assert record.output == alone.text
    assert record.prompt == model.tokenizer.decode(prompt)
    context = [*prompt, *model.tokenizer.encode("\n</think>\n\nAnswer:")]
    letters = [model.tokenizer.encode(" A"), model.tokenizer.encode(" B")]
    (expected,) = option_logprobs(model, [Choice(context, letters)])
    assert record.option_logprobs == pytest.approx(expected, rel=1e-5)
    assert record.likeliest == "AB"[int(np.argmax(expected))]


def test_base_arm_is_the_model_without_adapter(model, folder, tmp_path) -> None:
    evaluate(model, tmp_path, native_template=False, num=3)
    plain = load_model(ModelConfig(path=str(folder), quantization="none", device="cpu"))
    attach_lora(plain.decoder, rank=2, alpha=4, seed=9)
    evaluate(plain, tmp_path / "plain", native_template=False, num=3)
    one = read_records(tmp_path / "base.jsonl").records
    other = read_records(tmp_path / "plain" / "tuned.jsonl").records
    assert [r.output for r in one] == [r.output for r in other]
    assert [r.loss for r in one] == pytest.approx([r.loss for r in other], rel=1e-6)
    tuned = read_records(tmp_path / "tuned.jsonl").records
    assert [r.loss for r in one] != pytest.approx([r.loss for r in tuned], rel=1e-3)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("seed", range(6))
def test_killed_evaluation_resumes_without_asking_twice_or_losing_one(
    model, tmp_path, monkeypatch, seed: int
) -> None:
    whole = evaluate(model, tmp_path / "whole", num=4)
    asked: list[tuple[int, ...]] = []
    is_armed = True
    calls = 0
    chance = random.Random(seed)
    end = chance.randrange(1, 7)

    def counted(model, prompts, **options):
        nonlocal calls
        calls += 1
        if is_armed and calls > end:
            raise Killed
        asked.extend(tuple(prompt) for prompt in prompts)
        return generate(model, prompts, **options)

    monkeypatch.setattr(measure, "generate", counted)
    folder = tmp_path / "killed"
    try:
        evaluate(model, folder, num=4)
    except Killed:
        files = sorted(folder.glob("*.jsonl"))
        torn = files[chance.randrange(len(files))]
        data = torn.read_bytes()
        with torn.open("ab") as file:
            file.write(data[: chance.randrange(len(data))].split(b"\n")[0][:-1])
    is_armed = False
    resumed = evaluate(model, folder, num=4)
    # base and tuned have the same prompts, the native arm has its own: 4 + 2 x 4 questions
    assert len(asked) == 12
    assert {asked.count(prompt) for prompt in asked} == {1, 2}
    for arm in ("base_native", "base", "tuned"):
        assert (folder / f"{arm}.jsonl").read_bytes() == (
            tmp_path / "whole" / f"{arm}.jsonl"
        ).read_bytes()
    assert resumed.comparisons == whole.comparisons
    again = evaluate(model, folder, num=4)
    assert len(asked) == 12
    assert again.comparisons == whole.comparisons


def test_other_adapter_asks_the_tuned_arm_again_and_only_that(model, tmp_path, monkeypatch) -> None:
    evaluate(model, tmp_path, num=3)
    next(iter(lora_parameters(model.decoder).values())).data.add_(0.5)
    calls: list[int] = []

    def counted(model, prompts, **options):
        calls.append(len(prompts))
        return generate(model, prompts, **options)

    monkeypatch.setattr(measure, "generate", counted)
    evaluation = evaluate(model, tmp_path, num=3)
    assert sum(calls) == 3
    assert any("tuned.jsonl: 3 records of other settings" in note for note in evaluation.notes)
    calls.clear()
    evaluate(model, tmp_path, num=3, context={"anything": 2})
    assert sum(calls) == 9


def test_limit_generates_for_the_first_cases_only(model, tmp_path) -> None:
    evaluation = evaluate(model, tmp_path, limit=2, native_template=False)
    assert evaluation.num_asked == 2
    assert evaluation.arms[0].num_asked == 2
    loss = evaluation.main.metric("loss")
    assert loss is not None
    assert loss.num_cases == 5
    records = read_records(tmp_path / "base.jsonl").records
    assert [r.is_asked for r in records] == [True, True, False, False, False]


def test_nothing_but_loss(model, tmp_path) -> None:
    evaluation = evaluate(model, tmp_path, limit=0, option_likelihood=False)
    assert [arm.name for arm in evaluation.arms] == ["base", "tuned"]
    assert {metric.name for metric in evaluation.main.metrics} == {
        "loss",
        "loss_reasoning",
        "loss_response",
    }
    assert evaluation.examples == ()


def test_checkpoint_without_chat_template_is_told(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(items, "render_native", refuse_native)
    evaluation = evaluate(model, tmp_path, num=2)
    assert [arm.name for arm in evaluation.arms] == ["base", "tuned"]
    assert "its own chat template" in evaluation.notes[0]


def refuse_native(case, **_):
    raise PromptError("no template")


def test_case_whose_gold_text_cannot_be_rendered_has_no_loss(model, tmp_path) -> None:
    broken = make_case(9, question="why", reasoning="a</think>b", options=OPTIONS, answer_index=0)
    evaluation = compare_before_after(
        model,
        [*cases(2), broken],
        template=TEMPLATE,
        config=config(native_template=False),
        folder=tmp_path,
    )
    loss = evaluation.main.metric("loss")
    assert loss is not None
    assert loss.num_cases == 2
    assert "case-009: no loss" in evaluation.notes[0]
    assert evaluation.arms[0].num_asked == 3


def test_forced_end_of_thinking_is_not_well_formed(model, tmp_path, monkeypatch) -> None:
    text = "thoughts\n</think>\n\nAnswer: A"

    def ended(num_thinking: int):
        return lambda model, prompts, **_: [
            Generation((5, 6, 7), text, "stop", num_thinking) for _ in prompts
        ]

    for num_thinking, expected in ((6, True), (7, False)):
        monkeypatch.setattr(measure, "generate", ended(num_thinking))
        folder = tmp_path / str(num_thinking)
        evaluate(model, folder, num=2, native_template=False)
        records = read_records(folder / "tuned.jsonl").records
        assert [r.well_formed for r in records] == [expected, expected]
        assert [r.correct for r in records] == [True, False]


def test_thinking_budget_is_not_forced_on_a_native_prompt_without_thinking(
    model, tmp_path, monkeypatch
) -> None:
    budgets: dict[str, set] = {}

    def spied(model, prompts, **options):
        key = "native" if not options["stop"] else "ours"
        budgets.setdefault(key, set()).add(options["thinking_budget"])
        return generate(model, prompts, **options)

    monkeypatch.setattr(measure, "generate", spied)
    evaluate(model, tmp_path, num=2)
    assert budgets == {"native": {None}, "ours": {6}}


@pytest.mark.parametrize("template", ["plain", "huatuo", "r1", "custom"])
def test_other_templates(model, tmp_path, template: str) -> None:
    pieces = {"prompt": "Q {question}\nA ", "reasoning_open": "", "reasoning_close": ""}
    prompt = PromptConfig.model_validate(
        {"template": template, "custom": pieces if template == "custom" else None}
    )
    evaluation = compare_before_after(
        model,
        cases(2),
        template=get_template(prompt),
        config=config(native_template=False),
        folder=tmp_path,
    )
    assert evaluation.arms[0].num_asked == 2
    assert evaluation.settings.template == template
    assert read_records(tmp_path / "base.jsonl").records[0].option_logprobs is not None


@pytest.mark.parametrize("markers", [("[T]", "[/T]"), ("", "")])
def test_records_of_any_template_can_be_scored_again(model, tmp_path, monkeypatch, markers) -> None:
    """Without the template at hand: a record knows what opens and closes its thinking."""
    pieces = dict(zip(("reasoning_open", "reasoning_close"), markers), open_in_prompt=False)
    prompt = {"template": "custom", "custom": {"prompt": "Q {question}\nA ", **pieces}}
    text = f"{markers[0]} <think> Answer: A {markers[1]}\nAnswer: B"
    output = Generation((1, 2), text, "stop", 1)
    monkeypatch.setattr(measure, "generate", lambda _, prompts, **__: [output] * len(prompts))
    evaluation = compare_before_after(
        model,
        cases(2),
        template=get_template(PromptConfig.model_validate(prompt)),
        config=config(native_template=False),
        folder=tmp_path,
    )
    assert evaluation.arms[0].statuses["parsed"] == 2
    for record in read_records(tmp_path / "tuned.jsonl").records:
        assert record.extracted == "B"
        assert rescore(record) == record


def test_native_prompt_that_opens_the_thinking(folder, tmp_path) -> None:
    """As R1's: the output starts inside the thinking, so without an end of it nothing is read."""
    opened = tmp_path / "model"
    shutil.copytree(folder, opened)
    path = opened / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["chat_template"] = CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
    path.write_text(json.dumps(tokenizer))
    model = load_model(ModelConfig(path=str(opened), quantization="none", device="cpu"))
    attach_lora(model.decoder, rank=2, alpha=4, seed=1)
    decoding = DecodingConfig(max_new_tokens=4, batch_size=2)
    evaluate(model, tmp_path, num=2, decoding=decoding)
    for record in read_records(tmp_path / "base_native.jsonl").records:
        assert record.prompt is not None
        assert record.prompt.endswith("<think>\n")
        assert record.open_in_prompt is True
        assert record.answer_part == ""
        assert record.status in ("cut_off", "unclosed")


def test_repeated_ids_are_refused(model, tmp_path) -> None:
    with pytest.raises(EvaluationError, match="'case-000' is there more than once"):
        compare_before_after(
            model,
            [*cases(2), cases(1)[0]],
            template=TEMPLATE,
            config=config(),
            folder=tmp_path,
        )


def test_no_cases_and_no_adapter_are_refused(model, folder, tmp_path) -> None:
    with pytest.raises(EvaluationError, match="no held-out cases"):
        compare_before_after(model, [], template=TEMPLATE, config=config(), folder=tmp_path)
    plain = load_model(ModelConfig(path=str(folder), quantization="none", device="cpu"))
    with pytest.raises(EvaluationError, match="no adapter"):
        evaluate(plain, tmp_path)


def test_folder_that_cannot_be_written_is_a_plain_error(model, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EvaluationError, match="cannot be written"):
        evaluate(model, tmp_path / "file", num=1)


def test_values_that_are_not_finite_stop_the_evaluation(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        measure, "option_logprobs", lambda _, asked: [[float("nan"), 0.0]] * len(asked)
    )
    with pytest.raises(EvaluationError, match=r"option likelihoods .* not finite"):
        evaluate(model, tmp_path / "a", num=1, limit=0)
    next(iter(lora_parameters(model.decoder).values())).data.fill_(float("nan"))
    with pytest.raises(EvaluationError, match=r"loss of the case .* not finite"):
        evaluate(model, tmp_path / "b", num=1, limit=0, option_likelihood=False)
