"""What is measured before and after, and how answers are decoded."""

from __future__ import annotations

from pydantic import Field

from medimind.config.benchmarks import BenchmarkConfig
from medimind.config.judge import JudgeConfig
from medimind.config.section import Section


class DecodingConfig(Section):
    """How an answer is generated; the same before and after.

    Attributes:
        max_new_tokens: Longest output, thinking included.
        thinking_budget: After this many tokens the thinking is closed by force, so that an answer
            still fits; ``None`` never does.
        temperature: 0 takes the likeliest token each time.
        top_p: Nucleus sampling (Holtzman et al., 2019); 1 keeps all tokens.
        seed: Seed of the sampling.
        batch_size: Prompts generated at once.
    """

    max_new_tokens: int = Field(default=512, ge=1)
    thinking_budget: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=16, ge=1)


class EvaluationConfig(Section):
    """The before/after comparison on the held-out cases.

    Attributes:
        limit: Generate answers for at most this many held-out cases; the loss uses all of them.
        decoding: How answers are generated.
        native_template: Also judge the base model with the prompt of its own chat template.
        option_likelihood: Also answer multiple-choice cases by the likeliest option.
        bootstrap_samples: Resamples of the paired bootstrap.
        confidence: Level of the intervals.
        examples: Cases shown side by side in the report.
        benchmarks: Published questions that are asked too.
        wrong_hints: Ask up to this many multiple-choice cases once more, with a wrong conclusion
            put into the thinking; held-out ones, or those of the first benchmark with options.
        judges: Models that judge open answers beside the word matching; of two, the agreement is
            shown. Nothing is sent anywhere unless one is named here.
    """

    limit: int | None = Field(default=None, ge=0)
    decoding: DecodingConfig = DecodingConfig()
    native_template: bool = True
    option_likelihood: bool = True
    bootstrap_samples: int = Field(default=10_000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    examples: int = Field(default=5, ge=0)
    benchmarks: BenchmarkConfig = BenchmarkConfig()
    wrong_hints: int = Field(default=0, ge=0)
    judges: tuple[JudgeConfig, ...] = Field(default=(), max_length=2)
