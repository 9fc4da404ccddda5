"""What kind of decoder a checkpoint holds, and the table of families we know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medimind.errors import CheckpointError
from medimind.models.rope import RopeScaling

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Family:
    """What sets one family of checkpoints apart.

    Attributes:
        name: ``model_type`` of ``config.json``.
        class_name: Class that transformers loads it with.
        qkv_bias: ``True``/``False`` where the family fixes it, ``None`` where the config says.
        qk_norm: RMSNorm over each head's query and key.
        gguf: ``general.architecture`` of GGUF files that hold it.
    """

    name: str
    class_name: str
    qkv_bias: bool | None
    qk_norm: bool
    gguf: str


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("llama", "LlamaForCausalLM", None, False, "llama"),
        Family("mistral", "MistralForCausalLM", False, False, "llama"),
        Family("qwen2", "Qwen2ForCausalLM", True, False, "qwen2"),
        Family("qwen3", "Qwen3ForCausalLM", None, True, "qwen3"),
    )
}
_SUPPORTED = (
    "Supported are: " + ", ".join(FAMILIES) + " (config.json) and llama, qwen2, qwen3 (GGUF)"
)
_ROPE_KINDS = ("default", "linear", "llama3")
_MOST = 1 << 31


@dataclass(frozen=True, slots=True)
class Architecture:
    """Shape and constants of one decoder.

    Attributes:
        family: Key of ``FAMILIES``.
        vocab_size: Rows of the embedding (V).
        hidden_size: Model width (D).
        intermediate_size: Width of the MLP (I).
        num_layers: Decoder layers.
        num_heads: Query heads (H).
        num_kv_heads: Key and value heads (G).
        head_dim: Width of a head (K).
        rms_norm_epsilon: Epsilon of every norm.
        rope_theta: Base of the rotary frequencies.
        rope_scaling: How they are stretched.
        tied_head: The head is the embedding.
        qkv_bias: Biases on q, k and v.
        output_bias: Bias on o.
        mlp_bias: Biases on gate, up and down.
        qk_norm: RMSNorm over each head's query and key.
        max_positions: Longest sequence the checkpoint was made for.
        sliding_window: Attention reaches this far back; longer sequences are refused.
        bos_id: Token that opens a text, where the checkpoint says.
        eos_ids: Tokens that end one, where the checkpoint says.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_epsilon: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    tied_head: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    max_positions: int = 2048
    sliding_window: int | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"{self.num_heads} query heads cannot share {self.num_kv_heads} key heads",
                fix="The checkpoint's configuration is damaged; download it again",
            )
        if self.head_dim % 2:
            raise CheckpointError(
                f"the head width {self.head_dim} is odd, rotary embedding needs pairs",
                fix="The checkpoint's configuration is damaged; download it again",
            )
        factors = self.rope_scaling.factors if self.rope_scaling else ()
        if factors and len(factors) != self.head_dim // 2:
            raise CheckpointError(
                f"{len(factors)} rope factors for {self.head_dim // 2} frequencies",
                fix="The checkpoint is damaged; download it again",
            )

    @property
    def num_parameters(self) -> int:
        """Weights of the base model; a tied head counts once."""
        qkv = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        layer = self.hidden_size * (qkv + self.num_heads * self.head_dim)
        layer += 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        layer += qkv * self.qkv_bias + self.hidden_size * self.output_bias
        layer += (2 * self.intermediate_size + self.hidden_size) * self.mlp_bias
        layer += 2 * self.head_dim * self.qk_norm
        tables = self.vocab_size * self.hidden_size * (1 if self.tied_head else 2)
        return tables + self.num_layers * layer + self.hidden_size

    @classmethod
    def from_config_json(
        cls, config: Mapping[str, Any], *, where: str | None = None
    ) -> Architecture:
        """Read a Hugging Face ``config.json`` (of transformers 4 or 5).

        Raises:
            CheckpointError: The family, the rope scaling or the activation is not supported, or a
                value is missing or of the wrong kind.
        """
        return _from_config_json(config, where)

    @classmethod
    def from_gguf(
        cls,
        metadata: Mapping[str, Any],
        *,
        tensor_names: Collection[str],
        rope_factors: Sequence[float] | None = None,
        where: str | None = None,
    ) -> Architecture:
        """Read the metadata of a GGUF file.

        Args:
            metadata: Its key/value pairs.
            tensor_names: Its tensors: they tell whether the head is tied and biases exist.
            rope_factors: Values of the tensor ``rope_freqs.weight``, where the file has it.
            where: The file, for errors.

        Raises:
            CheckpointError: As for ``from_config_json``.
        """
        return _from_gguf(metadata, tensor_names, rope_factors, where)

    def to_config_json(self) -> dict[str, Any]:
        """A ``config.json`` that transformers loads."""
        family = FAMILIES[self.family]
        config: dict[str, Any] = {
            "architectures": [family.class_name],
            "model_type": family.name,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.rms_norm_epsilon,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "rope_theta": self.rope_theta,
            "rope_scaling": _scaling_json(self.rope_scaling),
            "tie_word_embeddings": self.tied_head,
            "attention_bias": self.qkv_bias,
            "mlp_bias": self.mlp_bias,
            "bos_token_id": self.bos_id,
            "eos_token_id": self.eos_ids[0]
            if len(self.eos_ids) == 1
            else list(self.eos_ids) or None,
        }
        if self.sliding_window is not None:
            config |= {"sliding_window": self.sliding_window}
        return config


def _scaling_json(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if scaling.kind == "factors":
        raise CheckpointError(
            "rope factors that a GGUF file stores one by one have no config.json form",
            fix="Start from the safetensors checkpoint of this model to export merged weights",
        )
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_max_positions,
    }


class _Values:
    """Typed access to the keys of a configuration, with errors that name them."""

    def __init__(self, values: Mapping[str, Any], where: str | None) -> None:
        self.values = values
        self.where = where

    def error(self, message: str, fix: str = "Download the checkpoint again") -> CheckpointError:
        return CheckpointError(message, where=self.where, fix=fix)

    def _number(self, key: str, default: Any, accept: Callable[[Any], bool], kind: str) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise self.error(f"the value '{key}' is missing")
            return default
        if isinstance(value, bool) or not accept(value):
            raise self.error(f"'{key}' should be {kind}, not {value!r:.60}")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        def accept(value: Any) -> bool:
            return isinstance(value, int) and 1 <= value < _MOST

        return int(self._number(key, default, accept, "a positive whole number"))

    def number(self, key: str, default: float | None = None) -> float:
        def accept(value: Any) -> bool:
            return isinstance(value, (int, float)) and 0 < value < float("inf")

        return float(self._number(key, default, accept, "a positive number"))

    def token_ids(self, key: str) -> tuple[int, ...]:
        value = self.values.get(key)
        ids = value if isinstance(value, list) else [value]
        return tuple(
            int(i) for i in ids if isinstance(i, int) and not isinstance(i, bool) and i >= 0
        )


def _from_config_json(config: Mapping[str, Any], where: str | None) -> Architecture:
    if not isinstance(config, Mapping):
        raise CheckpointError("config.json should hold an object", where=where, fix=_SUPPORTED)
    get = _Values(config, where)
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise get.error(f"model_type {config.get('model_type')!r:.60} is not supported", _SUPPORTED)
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise get.error(f"the activation {activation!r:.60} is not supported", "silu is supported")
    if config.get("quantization_config"):
        raise get.error(
            "the checkpoint is already quantised",
            "Give the unquantised checkpoint or a GGUF file of it; MediMind quantises it",
        )
    heads = get.integer("num_attention_heads")
    hidden = get.integer("hidden_size")
    bias = bool(config.get("attention_bias", False)) if family.qkv_bias is None else family.qkv_bias
    theta, scaling = _rope_json(config, where)
    bos = get.token_ids("bos_token_id")
    return Architecture(
        family=family.name,
        vocab_size=get.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=get.integer("intermediate_size"),
        num_layers=get.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=get.integer("num_key_value_heads", heads),
        head_dim=get.integer("head_dim", max(hidden // heads, 1)),
        rms_norm_epsilon=get.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied_head=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=bias,
        output_bias=bias and family.qkv_bias is None,
        mlp_bias=bool(config.get("mlp_bias", False)) and family.name == "llama",
        qk_norm=family.qk_norm,
        max_positions=get.integer("max_position_embeddings", 2048),
        sliding_window=_sliding_window(get, family),
        bos_id=bos[0] if bos else None,
        eos_ids=get.token_ids("eos_token_id"),
    )


def _sliding_window(get: _Values, family: Family) -> int | None:
    if get.values.get("sliding_window") is None or family.name == "llama":
        return None
    if family.name.startswith("qwen") and not get.values.get("use_sliding_window", False):
        return None
    return get.integer("sliding_window")


def _rope_json(config: Mapping[str, Any], where: str | None) -> tuple[float, RopeScaling | None]:
    """Theta and scaling; transformers 5 writes ``rope_parameters``, 4 ``rope_theta`` + scaling."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise _Values({}, where).error("rope_scaling should be an object")
    get = _Values({**config, **parameters}, where)
    theta = get.number("rope_theta", 10_000.0)
    kind = str(parameters.get("rope_type", parameters.get("type", "default")))
    if kind not in _ROPE_KINDS:
        raise get.error(
            f"the rope scaling {kind!r:.60} is not supported",
            "Supported are: " + ", ".join(_ROPE_KINDS),
        )
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", factor=get.number("factor"))
    return theta, RopeScaling(
        "llama3",
        factor=get.number("factor"),
        low_frequency_factor=get.number("low_freq_factor"),
        high_frequency_factor=get.number("high_freq_factor"),
        original_max_positions=get.integer("original_max_position_embeddings"),
    )


def _from_gguf(
    metadata: Mapping[str, Any],
    tensor_names: Collection[str],
    rope_factors: Sequence[float] | None,
    where: str | None,
) -> Architecture:
    name = metadata.get("general.architecture")
    family = next((f for f in FAMILIES.values() if f.gguf == name), None)
    if family is None:
        raise CheckpointError(
            f"the GGUF architecture {name!r:.60} is not supported", where=where, fix=_SUPPORTED
        )
    prefix = f"{name}."
    values = {k[len(prefix) :]: v for k, v in metadata.items() if k.startswith(prefix)}
    get = _Values(values, where)
    if values.get("expert_count"):
        raise get.error("mixtures of experts are not supported", _SUPPORTED)
    heads = get.integer("attention.head_count")
    hidden = get.integer("embedding_length")
    tokens = metadata.get("tokenizer.ggml.tokens")
    num_tokens = len(tokens) if isinstance(tokens, (list, tuple)) else None
    ids = _Values(metadata, where)
    bos = ids.token_ids("tokenizer.ggml.bos_token_id")
    return Architecture(
        family=family.name,
        vocab_size=get.integer("vocab_size", num_tokens),
        hidden_size=hidden,
        intermediate_size=get.integer("feed_forward_length"),
        num_layers=get.integer("block_count"),
        num_heads=heads,
        num_kv_heads=get.integer("attention.head_count_kv", heads),
        head_dim=get.integer("attention.key_length", max(hidden // heads, 1)),
        rms_norm_epsilon=get.number("attention.layer_norm_rms_epsilon", 1e-6),
        rope_theta=get.number("rope.freq_base", 10_000.0),
        rope_scaling=_rope_gguf(get, rope_factors),
        tied_head="output.weight" not in tensor_names,
        qkv_bias="blk.0.attn_q.bias" in tensor_names,
        output_bias="blk.0.attn_output.bias" in tensor_names,
        mlp_bias="blk.0.ffn_up.bias" in tensor_names,
        qk_norm=family.qk_norm,
        max_positions=get.integer("context_length", 2048),
        sliding_window=None,
        bos_id=bos[0] if bos else None,
        eos_ids=ids.token_ids("tokenizer.ggml.eos_token_id"),
    )


def _rope_gguf(get: _Values, rope_factors: Sequence[float] | None) -> RopeScaling | None:
    if rope_factors is not None:
        return RopeScaling("factors", factors=tuple(float(f) for f in rope_factors))
    kind = get.values.get("rope.scaling.type", "none")
    if kind in ("none", None):
        return None
    if kind != "linear":
        raise get.error(
            f"the rope scaling {kind!r:.60} is not supported", "Supported are: none, linear, llama3"
        )
    return RopeScaling("linear", factor=get.number("rope.scaling.factor"))
