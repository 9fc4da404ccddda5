"""From a recipe's model section to a decoder with its weights, tokenizer and identity."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from medimind.config.model import ModelConfig
from medimind.errors import CheckpointError, ConfigError
from medimind.formats.folder import hash_file
from medimind.formats.json_file import read_json_object
from medimind.kernels.availability import has_triton
from medimind.models.architecture import Architecture
from medimind.models.card_load import fill_on_card
from medimind.models.checkpoint import Checkpoint, open_checkpoint
from medimind.models.decoder import Decoder
from medimind.models.fused.fp8_weights import why_no_fp8
from medimind.models.fused.group import fuse_layer
from medimind.models.resolve import resolve_model
from medimind.prompts.tokenizer import Tokenizer, load_tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HASHED_AT_ONCE = 8
_hashes: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True, slots=True)
class Model:
    """A base model, ready to be adapted, asked or exported.

    Attributes:
        decoder: The weights.
        tokenizer: Text to ids and back.
        architecture: Shape and constants.
        dtype: Compute dtype.
        device: Where the weights lie.
        name: Built-in name, hub id, or path.
        path: GGUF file or folder it was read from.
        revision: Commit on the hub; ``None`` for local files.
        sha256: Digest (hex) over the weights files.
        quantization: ``nf4`` or ``none``.
        eos_ids: Tokens that end an output.
        prompt_precision: ``fp8`` where generation reads prompts in it, else ``dtype``.
    """

    decoder: Decoder
    tokenizer: Tokenizer
    architecture: Architecture
    dtype: torch.dtype
    device: torch.device
    name: str
    path: Path
    revision: str | None
    sha256: str
    quantization: str
    eos_ids: tuple[int, ...]
    prompt_precision: Literal["dtype", "fp8"] = "dtype"

    @property
    def arithmetic(self) -> str:
        """What outputs depend on beside the weights: the dtype, and where it is left."""
        return str(self.dtype) + (", prompts in fp8" if self.prompt_precision == "fp8" else "")


def load_model(config: ModelConfig) -> Model:
    """The model of a recipe; weights are read, checked and quantised one layer at a time.

    Raises:
        CheckpointError: If the weights are missing, damaged or of an unsupported kind.
        ConfigError: If the device or dtype asked for is not there.
        PromptError: If the tokenizer cannot be read.
    """
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device=device)
    resolved = resolve_model(config.path, revision=config.revision)
    checkpoint = open_checkpoint(resolved.path)
    tokenizer = load_tokenizer(resolved.path)
    _check_vocabulary(checkpoint, tokenizer)
    with ThreadPoolExecutor(1) as pool:  # hashing leaves the interpreter free
        digest = pool.submit(hash_files, checkpoint.files)
        decoder = load_decoder(
            checkpoint,
            dtype=dtype,
            device=device,
            nf4=config.quantization == "nf4",
            double_quantization=config.double_quantization,
            int8_tables=config.head_quantization == "int8",
        )
        sha256 = digest.result()
    if config.prompt_precision == "fp8":
        _check_fp8(decoder)
    return Model(
        decoder=decoder,
        tokenizer=tokenizer,
        architecture=checkpoint.architecture,
        dtype=dtype,
        device=device,
        name=resolved.name,
        path=resolved.path,
        revision=resolved.revision,
        sha256=sha256,
        quantization=config.quantization,
        eos_ids=eos_ids(checkpoint, tokenizer),
        prompt_precision=config.prompt_precision,
    )


def _check_fp8(decoder: Decoder) -> None:
    """Refuse what would be read in another precision than was asked for.

    Raises:
        ConfigError: The card or the model's shape has no fp8.
    """
    reason = why_no_fp8([fuse_layer(decoder.layers[0])], decoder.device)
    if decoder.device.type != "cuda" or not has_triton():
        reason = "it needs a CUDA card, and triton"
    if reason is not None:
        raise ConfigError(
            f"no fp8: {reason}",
            where="model.prompt_precision",
            fix="Set model.prompt_precision=dtype",
        )


def pick_device(device: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` means here.

    Raises:
        ConfigError: If ``cuda`` is asked for and there is no card.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "no CUDA card can be used on this machine",
            where="model.device",
            fix="Set model.device: cpu, or install a CUDA build of torch",
        )
    return torch.device(device)


def pick_dtype(dtype: str, *, device: torch.device) -> torch.dtype:
    """The compute dtype; ``auto`` is bf16 where the card has it natively, else fp16; fp32 on CPU.

    Cards before compute capability 8.0 (T4, V100) only emulate bf16.
    """
    if dtype != "auto":
        return _DTYPES[dtype]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def load_decoder(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    device: torch.device,
    nf4: bool,
    double_quantization: bool = True,
    int8_tables: bool = False,
) -> Decoder:
    """A decoder filled from a checkpoint.

    Only one tensor is on its way at a time, and with NF4 only one layer in full width, on a card
    only one projection: an 8B model loads onto a card of 8 GB.

    Args:
        checkpoint: The weights.
        dtype: Compute dtype.
        device: Where they go.
        nf4: Quantise the projections.
        double_quantization: Quantise the NF4 scales themselves.
        int8_tables: Hold embedding and head in 8 bits.

    Raises:
        CheckpointError: If a tensor is not finite, or the memory does not suffice.
    """
    try:
        on_card = device.type == "cuda" and bool(checkpoint.stored)
        decoder = Decoder(
            checkpoint.architecture,
            dtype=dtype,
            device=device,
            allocate_layers=False,
            dense_tables=not (on_card and int8_tables),
        )
        fill = fill_on_card if on_card else _fill
        fill(
            decoder,
            checkpoint,
            nf4=nf4,
            double_quantization=double_quantization,
            int8_tables=int8_tables,
        )
    except torch.OutOfMemoryError as error:
        raise CheckpointError(
            f"the model does not fit into the memory of {device}",
            where=str(checkpoint.path),
            fix="Set model.quantization: nf4, or take a smaller model",
        ) from error
    if missing := decoder.missing_tensors():
        raise AssertionError(f"not filled: {missing}")
    return decoder.eval()


def _fill(
    decoder: Decoder,
    checkpoint: Checkpoint,
    *,
    nf4: bool,
    double_quantization: bool,
    int8_tables: bool,
) -> None:
    names = list(decoder.tensor_shapes())
    for index in range(checkpoint.architecture.num_layers):
        layer = decoder.allocate_layer(index)
        prefix = f"model.layers.{index}."
        for name in names:
            if name.startswith(prefix):
                decoder.load_tensor(name, checkpoint.read(name, dtype=decoder.dtype))
        if nf4:
            layer.quantize_nf4(double_quantization=double_quantization)
    for name in names:
        if not name.startswith("model.layers."):
            decoder.load_tensor(name, checkpoint.read(name, dtype=decoder.dtype))
    if int8_tables:
        decoder.quantize_tables()


def eos_ids(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Every token that ends an output, by the tokenizer, the config or the generation config."""
    found = list(checkpoint.architecture.eos_ids)
    if tokenizer.eos_id is not None:
        found.insert(0, tokenizer.eos_id)
    generation = checkpoint.path / "generation_config.json"
    if generation.is_file():
        value = read_json_object(generation).get("eos_token_id")
        found += value if isinstance(value, list) else [value]
    vocab_size = checkpoint.architecture.vocab_size
    valid = [i for i in found if type(i) is int and 0 <= i < vocab_size]
    return tuple(dict.fromkeys(valid))


def hash_files(files: tuple[Path, ...]) -> str:
    """SHA-256 (hex) over the contents of files, in the order of their names.

    A single file has its own digest. Digests are remembered while the process lives, by path,
    size and time of change. Several files are read at the same time.
    """
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        digests = list(pool.map(_hash_file, sorted(files)))
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _hash_file(file: Path) -> str:
    stat = file.stat()
    key = (str(file.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _hashes:
        _hashes[key] = hash_file(file)
    return _hashes[key]


def _check_vocabulary(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    rows = checkpoint.architecture.vocab_size
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the embedding only {rows} rows",
            where=str(checkpoint.path),
            fix="Take the weights and the tokenizer from the same checkpoint",
        )
