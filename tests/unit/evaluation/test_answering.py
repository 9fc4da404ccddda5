"""Benchmarks put to an engine: what is recorded, what is asked again, and scoring anew."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from evaluation_builders import make_case

from medimind.cli.main import main
from medimind.config.benchmarks import BenchmarkConfig
from medimind.config.evaluation import DecodingConfig
from medimind.engines.engine import Decoding, Reply
from medimind.errors import EngineError, EvaluationError
from medimind.evaluation.answering.answer import answer_benchmark
from medimind.evaluation.answering.asks import Arm, Plan
from medimind.evaluation.answering.plan import evaluate_benchmarks, make_plan
from medimind.evaluation.answering.rescore import rescore_file
from medimind.evaluation.benchmarks import BENCHMARKS
from medimind.evaluation.benchmarks.read import BenchmarkItems
from medimind.evaluation.compare import compare_results
from medimind.evaluation.gather import result_sets
from medimind.evaluation.records import read_records
from medimind.evaluation.results import read_benchmarks, read_results

GREEDY = Plan(Decoding(max_new_tokens=64))
OPEN_GOLD = {"options": (), "answer_index": None, "answer": "flu"}


class ScriptedEngine:
    """Answers by a rule, and remembers what it was asked."""

    name = "scripted"
    variants = ("base", "tuned")

    def __init__(
        self, *, says: str = "Hm.\n</think>\nAnswer: {letter}", version: str = "1"
    ) -> None:
        self.says, self.version = says, version
        self.asked: list[tuple[str, str, int]] = []
        self.likelihoods: list[tuple[str, str]] = []
        self.fails_after: int | None = None

    def identity(self, variant: str) -> str:
        return f"{self.version}/{variant}"

    def answer(self, requests, *, decoding, variant="base", on_reply=None):
        replies = []
        for index, request in enumerate(requests):
            if self.fails_after is not None and len(self.asked) >= self.fails_after:
                raise EngineError("the engine is gone")
            self.asked.append((variant, request.messages[-1].content, request.seed))
            letter = "B" if variant == "tuned" else "A"
            reply = Reply(
                text=self.says.format(letter=letter),
                finish_reason="stop",
                num_prompt_tokens=11,
                num_tokens=4,
                seconds=0.5,
                num_thinking_tokens=2,
                open_in_prompt=True,
            )
            replies.append(reply)
            if on_reply is not None:
                on_reply(index, reply)
        return replies

    def stream(self, request, *, decoding, variant="base"):
        yield self.says

    def option_logprobs(self, requests, *, variant="base", on_logprobs=None):
        found = []
        for index, one in enumerate(requests):
            asked = one.request.prompt or one.request.messages[-1].content
            self.likelihoods.append((variant, asked))
            found.append([-float(place) for place in range(len(one.continuations))])
            if on_logprobs is not None:
                on_logprobs(index, found[-1])
        return found

    def close(self) -> None:
        pass


def items(num: int = 6, **changes) -> BenchmarkItems:
    cases = tuple(make_case(index, **changes) for index in range(num))
    benchmark = BENCHMARKS["medqa"]
    return BenchmarkItems(benchmark.card, benchmark, cases, num, "made up", None, "0" * 64)


def arm(engine: ScriptedEngine, variant: str = "base") -> Arm:
    return Arm(variant, f"The {variant} one", engine, variant)  # pyright: ignore[reportArgumentType]


def test_both_ways_of_answering_are_recorded(tmp_path) -> None:
    engine = ScriptedEngine()
    got = answer_benchmark(items(), arm=arm(engine, "tuned"), plan=GREEDY, folder=tmp_path)
    assert len(got.records) == 6
    record = got.records[0]
    assert (record.benchmark, record.arm, record.sample) == ("medqa", "tuned", 0)
    assert (record.extracted, record.correct, record.gold) == ("B", True, "B")
    assert (record.likeliest, record.likeliest_correct) == ("A", False)
    assert (record.num_tokens, record.num_prompt_tokens, record.seconds) == (4, 11, 0.5)
    assert "A. Pericarditis" in record.prompt  # the engine does not show its own prompt
    assert "Answer: <letter>" in record.prompt
    assert list(read_records(tmp_path / "tuned.jsonl").records) == list(got.records)
    assert len(read_records(tmp_path / "likelihood" / "tuned.jsonl").records) == 6


def test_nothing_is_asked_again_but_what_changed(tmp_path) -> None:
    engine = ScriptedEngine()

    def ask(plan=GREEDY, engine=engine, num=6, **changes):
        engine.asked.clear()
        engine.likelihoods.clear()
        records = answer_benchmark(
            items(num, **changes), arm=arm(engine), plan=plan, folder=tmp_path
        ).records
        return records, len(engine.asked), len(engine.likelihoods)

    first, *counts = ask()
    assert counts == [6, 6]
    again, *counts = ask()
    assert (again, counts) == (first, [0, 0])
    fewer, *counts = ask(num=2)
    assert (fewer, counts) == (first[:2], [0, 0])
    _, *counts = ask(num=8)
    assert counts == [2, 2]
    _, *counts = ask(dataclasses.replace(GREEDY, decoding=Decoding(max_new_tokens=65)))
    assert counts == [6, 0]  # likelihoods do not depend on the decoding
    _, *counts = ask(question="Another?")
    assert counts == [6, 6]
    _, *counts = ask(answer_index=2)
    assert counts == [6, 6]
    _, *counts = ask(engine=ScriptedEngine(version="2"))
    assert len(read_records(tmp_path / "base.jsonl").records) == 6 + 2 + 6 * 4
    assert ask()[1:] == (0, 0)  # and the first ones are still there


def test_what_an_older_version_wrote_is_read_by_todays_rule(tmp_path) -> None:
    engine = ScriptedEngine()
    got = answer_benchmark(items(), arm=arm(engine), plan=GREEDY, folder=tmp_path)
    path = tmp_path / "base.jsonl"
    path.write_text(path.read_text().replace('"status": "parsed"', '"status": "unparsed"'))
    again = answer_benchmark(items(), arm=arm(engine), plan=GREEDY, folder=tmp_path)
    assert again.records == got.records
    assert len(engine.asked) == 6


def test_a_comparison_takes_what_the_last_call_counted(tmp_path) -> None:
    """The files keep the outputs of other settings, for a call that wants them again."""
    path = tmp_path / "questions.jsonl"
    rows = [{"question": f"Which of them is it, {n}?", "answer": "A"} for n in range(8)]
    options = {letter: f"This one, {letter}" for letter in "ABCD"}
    path.write_text("".join(json.dumps({**row, "options": options}) + "\n" for row in rows))
    arms = [arm(ScriptedEngine()), arm(ScriptedEngine(), "tuned")]
    for limit, tokens in ((8, 64), (4, 32)):
        config = BenchmarkConfig(names=(str(path),), limit=limit, max_new_tokens=tokens)
        evaluate_benchmarks(arms, config=config, decoding=DecodingConfig(), folder=tmp_path / "out")
    assert len(read_records(tmp_path / "out" / "questions" / "base.jsonl").records) == 12
    sets = read_benchmarks(tmp_path / "out")
    assert [one.name for one in sets] == ["base", "tuned"]
    assert [one.num_cases for one in sets] == [4, 4]
    path = tmp_path / "out" / "questions" / "tuned.jsonl"
    assert read_results(path).num_cases == 4
    assert rescore_file(path).after.num_asked == 4


def test_runs_with_other_seeds_share_no_sample(tmp_path) -> None:
    """Three samples with each of three seeds are nine draws of a case, not five."""
    engine = ScriptedEngine()
    for seed in (0, 1, 2):
        plan = Plan(Decoding(64, temperature=0.6), num_samples=3, seed=seed)
        answer_benchmark(items(1), arm=arm(engine), plan=plan, folder=tmp_path / str(seed))
    assert len({seed for _, _, seed in engine.asked}) == 9


def test_two_benchmarks_of_one_name_are_refused(tmp_path) -> None:
    """Their records would lie in one folder, and be compared as one benchmark."""
    row = {"question": "?", "options": {"A": "yes", "B": "no"}, "answer": "A"}
    for ward in ("one", "two"):
        (tmp_path / ward).mkdir()
        (tmp_path / ward / "questions.jsonl").write_text(json.dumps(row))
    names = tuple(str(tmp_path / ward / "questions.jsonl") for ward in ("one", "two"))
    config = BenchmarkConfig(names=names)
    with pytest.raises(EvaluationError, match=r"the name 'questions'.*one.* and .*two"):
        evaluate_benchmarks(
            [arm(ScriptedEngine())], config=config, decoding=DecodingConfig(), folder=tmp_path / "o"
        )


def test_samples_have_seeds_of_their_own_and_one_likelihood(tmp_path) -> None:
    engine = ScriptedEngine()
    plan = Plan(Decoding(64, temperature=0.6), num_samples=3, seed=10)
    records = answer_benchmark(items(2), arm=arm(engine), plan=plan, folder=tmp_path).records
    assert [seed for _, _, seed in engine.asked] == [10, 10_017, 20_024] * 2
    assert [record.sample for record in records] == [0, 1, 2] * 2
    assert [record.likeliest for record in records] == ["A", None, None] * 2
    more = dataclasses.replace(plan, num_samples=5)
    engine.asked.clear()
    answer_benchmark(items(2), arm=arm(engine), plan=more, folder=tmp_path)
    assert [seed for _, _, seed in engine.asked] == [30_031, 40_038] * 2


def test_samples_without_a_temperature_are_refused(tmp_path) -> None:
    plan = dataclasses.replace(GREEDY, num_samples=2)
    with pytest.raises(EvaluationError, match="would all be the same"):
        answer_benchmark(items(), arm=arm(ScriptedEngine()), plan=plan, folder=tmp_path)
    with pytest.raises(EvaluationError, match="neither outputs nor option likelihoods"):
        Plan(None, likelihood=None).check()


def test_several_samples_are_drawn_as_r1_advises() -> None:
    plan = make_plan(BenchmarkConfig(samples=3), DecodingConfig(seed=5))
    assert plan.decoding is not None
    assert (plan.decoding.temperature, plan.decoding.top_p, plan.seed) == (0.6, 0.95, 5)
    plan = make_plan(BenchmarkConfig(), DecodingConfig(thinking_budget=9))
    assert plan.decoding == Decoding(512, thinking_budget=9)


def test_likelihoods_told_before_a_failure_are_not_asked_again(tmp_path) -> None:
    engine, plan = ScriptedEngine(), Plan(None)

    class Gone(ScriptedEngine):
        def option_logprobs(self, requests, *, variant="base", on_logprobs=None):
            super().option_logprobs(requests[:4], variant=variant, on_logprobs=on_logprobs)
            raise EngineError("the engine is gone")

    with pytest.raises(EngineError, match="gone"):
        answer_benchmark(items(), arm=arm(Gone()), plan=plan, folder=tmp_path)
    records = answer_benchmark(items(), arm=arm(engine), plan=plan, folder=tmp_path).records
    assert len(engine.likelihoods) == 2
    assert [record.likeliest for record in records] == ["A"] * 6


def test_likelihood_alone_generates_nothing(tmp_path) -> None:
    engine = ScriptedEngine()
    plan = Plan(None, likelihood="harness")
    records = answer_benchmark(items(2), arm=arm(engine), plan=plan, folder=tmp_path).records
    assert not engine.asked
    assert engine.likelihoods[0][1].startswith("Question: A 30-year-old woman")
    assert engine.likelihoods[0][1].endswith("D. Pneumothorax\nAnswer:")
    assert [record.output for record in records] == [None, None]
    assert records[0].likeliest == "A"


def test_open_questions_take_aliases(tmp_path) -> None:
    engine = ScriptedEngine(says="Hm.\n</think>\nIt is influenza.")
    changes = {**OPEN_GOLD, "metadata": {"aliases": "influenza|grippe"}}
    plan = dataclasses.replace(GREEDY, likelihood=None)
    right = answer_benchmark(items(1, **changes), arm=arm(engine), plan=plan, folder=tmp_path)
    wrong = answer_benchmark(items(1, **OPEN_GOLD), arm=arm(engine), plan=plan, folder=tmp_path)
    assert [right.records[0].correct, wrong.records[0].correct] == [True, False]
    assert right.records[0].aliases == ("influenza", "grippe")


@pytest.mark.parametrize("fails_after", range(6))
def test_an_engine_that_fails_leaves_what_was_answered(tmp_path, fails_after: int) -> None:
    engine = ScriptedEngine()
    engine.fails_after = fails_after
    with pytest.raises(EngineError):
        answer_benchmark(items(), arm=arm(engine), plan=GREEDY, folder=tmp_path)
    engine.fails_after = None
    before = len(engine.asked)
    answer_benchmark(items(), arm=arm(engine), plan=GREEDY, folder=tmp_path)
    assert len(engine.asked) == 6
    assert before == fails_after
    assert len(engine.likelihoods) == 6


def test_a_file_cut_at_any_byte_of_its_last_line_goes_on(tmp_path) -> None:
    whole = tmp_path / "whole"
    answer_benchmark(items(3), arm=arm(ScriptedEngine()), plan=GREEDY, folder=whole)
    data = (whole / "base.jsonl").read_bytes()
    last = data[:-1].rindex(b"\n") + 1
    for cut in range(last, len(data) + 1, 37):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "base.jsonl").write_bytes(data[:cut])
        engine = ScriptedEngine()
        answer_benchmark(items(3), arm=arm(engine), plan=GREEDY, folder=folder)
        assert len(engine.asked) == (0 if cut >= len(data) - 1 else 1), cut
        assert len(read_records(folder / "base.jsonl").records) == 3


def test_base_and_tuned_are_paired_on_the_same_items(tmp_path) -> None:
    engine = ScriptedEngine()
    questions = tmp_path / "mine.jsonl"
    rows = [
        {"question": f"Which one is it, {n}?", "options": ["flu", "cold"], "answer_idx": "B"}
        for n in range(8)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = evaluate_benchmarks(
        [arm(engine), arm(engine, "tuned")],
        config=BenchmarkConfig(names=(str(questions),), limit=7),
        decoding=DecodingConfig(),
        folder=tmp_path / "out",
    )
    (result,) = results
    assert [one.summary.correct for one in result.arms] == [0, 7]
    metric = result.comparisons[0].metric("answer_accuracy")
    assert metric is not None
    assert (metric.num_cases, metric.difference) == (7, 1.0)
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    entry = document["benchmarks"][0]
    assert (entry["name"], entry["num_asked"], entry["num_available"]) == ("mine", 7, 8)
    assert len(entry["sha256"]) == 64
    card = json.loads((tmp_path / "out" / "mine" / "benchmark.json").read_text())
    assert card["scoring"][0].startswith("answer-line")


def test_terminal_and_report_compare_the_same_and_adjust_alike(tmp_path) -> None:
    """An adjusted p-value of another number of comparisons would give another verdict."""
    path = tmp_path / "questions.jsonl"
    rows = [{"question": f"Which of them is it, {n}?", "answer": "AB"[n % 2]} for n in range(12)]
    options = {letter: f"This one, {letter}" for letter in "ABCD"}
    path.write_text("".join(json.dumps({**row, "options": options}) + "\n" for row in rows))
    engine = ScriptedEngine()
    native = Arm("base_native", "Its own template", ScriptedEngine(version="2"), "base")
    results = evaluate_benchmarks(
        [arm(engine), arm(engine, "tuned"), native],
        config=BenchmarkConfig(names=(str(path),)),
        decoding=DecodingConfig(),
        folder=tmp_path / "out",
    )
    sets = {one.name: one for one in result_sets(results)}
    report = compare_results(
        [sets["base"], sets["tuned"]], control=sets["base_native"], seed=DecodingConfig().seed
    )
    told = results[0].comparisons
    assert [(one.before, one.after) for one in told] == [
        (one.before, one.after) for one in report.comparisons
    ]
    assert [m.adjusted_p_value for one in told for m in one.metrics] == [
        m.adjusted_p_value for one in report.comparisons for m in one.metrics
    ]


def test_rescoring_reads_outputs_anew(tmp_path, capsys) -> None:
    path = tmp_path / "base.jsonl"
    answer_benchmark(items(3), arm=arm(ScriptedEngine()), plan=GREEDY, folder=tmp_path)
    found = rescore_file(path)
    assert not found.changed
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1] |= {"extracted": "D", "correct": True, "status": "parsed"}  # as an older rule had it
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "new.jsonl"
    assert rescore_file(path, out=out).changed == (("case-001", 0, "D", "A"),)
    assert read_records(out).records[1].correct is False
    assert main(["evaluate", "--rescore", str(path)]) == 0
    assert "1 outputs are read differently now" in capsys.readouterr().out
    with pytest.raises(EvaluationError, match="exists already"):
        rescore_file(path, out=out)


def test_rescoring_wants_outputs(tmp_path) -> None:
    path = Path(tmp_path / "base.jsonl")
    answer_benchmark(items(2), arm=arm(ScriptedEngine()), plan=Plan(None), folder=tmp_path)
    with pytest.raises(EvaluationError, match="no record of it holds an output"):
        rescore_file(path)
