from __future__ import annotations

from pathlib import Path

import pytest

from medimind.config.load import dump_recipe, load_recipe
from medimind.errors import ConfigError

MINIMAL = """\
name: small
model:
  path: smollm2-135m-instruct
data:
  sources:
    - source: starter
train:
  steps: 3
"""


@pytest.fixture
def recipe_file(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def failure(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides=overrides)
    return str(caught.value)


def test_defaults_are_filled_in(recipe_file):
    recipe = load_recipe(recipe_file(MINIMAL))
    assert recipe.lora.rank == 16
    assert recipe.run_folder == Path("runs/small")


def test_dump_loads_to_the_same_recipe(recipe_file):
    recipe = load_recipe(recipe_file(MINIMAL), overrides=["data.sources.0.weight=2"])
    assert load_recipe(recipe_file(dump_recipe(recipe))) == recipe


def test_overrides_replace_and_create(recipe_file):
    recipe = load_recipe(
        recipe_file(MINIMAL),
        overrides=["lora.rank=32", "data.sources.0.limit=7", "tracking.wandb.mode=offline"],
    )
    assert recipe.lora.rank == 32
    assert recipe.data.sources[0].limit == 7
    assert recipe.tracking.wandb is not None
    assert recipe.tracking.wandb.mode == "offline"


def test_all_errors_are_listed_with_their_lines(recipe_file):
    path = recipe_file(
        MINIMAL.replace("steps: 3", "steps: ten\n  learning_rat: 1")
        + "lora:\n  rank: 0\n  targets: [q_proj, qproj]\n"
    )
    text = failure(path)
    assert "4 errors" in text
    assert f"{path}:8: 'train.steps'" in text
    assert f"{path}:9: unknown key 'train.learning_rat'; did you mean 'learning_rate'?" in text
    assert f"{path}:11: 'lora.rank'" in text
    assert f"{path}:12: 'lora.targets.1'" in text
    assert "did you mean 'q_proj'?" in text


def test_missing_key_points_at_the_section(recipe_file):
    text = failure(
        recipe_file(MINIMAL.replace("  path: smollm2-135m-instruct", "  revision: main"))
    )
    assert ":2: 'model.path' is missing" in text


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("rank=4", "did you mean 'lora.rank'?"),
        ("model.learning_rate=1", "did you mean 'train.learning_rate'?"),
        ("batch_size=2", "did you mean 'train.batch_size' or 'evaluation.decoding.batch_size'?"),
        ("lora.rnk=4", "did you mean 'rank'?"),  # its like beside it goes first
    ],
)
def test_a_key_of_another_section_is_found_there(recipe_file, override, hint):
    assert hint in failure(recipe_file(MINIMAL), override)


def test_a_name_that_cannot_name_a_folder(recipe_file):
    text = failure(recipe_file(MINIMAL.replace("name: small", "name: my run")))
    assert ":1: 'name': cannot name a run folder; use letters" in text


def test_unknown_key_without_a_near_one_lists_the_known(recipe_file):
    assert "known keys: name, description" in failure(recipe_file(MINIMAL + "zzzzzz: 1\n"))


def test_duplicate_key_names_both_lines(recipe_file):
    text = failure(recipe_file(MINIMAL + "name: again\n"))
    assert ":9: 'name' stands here again (first in line 1)" in text


def test_error_of_an_override_names_the_override(recipe_file):
    text = failure(recipe_file(MINIMAL), "lora.rnk=3")
    assert "override 'lora.rnk=3': unknown key 'lora.rnk'; did you mean 'rank'?" in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("lora.rank", "neither an option nor an override"),
        ("=3", "neither an option nor an override"),
        ("lora..rank=3", "neither an option nor an override"),
        ("name.x=3", "holds a plain value"),
        ("data.sources.7.limit=3", "is a list of 1"),
        ("data.sources.x.limit=3", "is a list of 1"),
        ("name=[", "not valid YAML"),
    ],
)
def test_override_that_leads_nowhere(recipe_file, override, expected):
    assert expected in failure(recipe_file(MINIMAL), override)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("train:\n  steps: 3\n  epochs: 1\n", "exactly one of epochs and steps"),
        ("train:\n  steps: 3\n  early_stopping_patience: 2\n", "needs evaluate_every"),
        ("train:\n  steps: 3\nprompt:\n  template: custom\n", "custom go together"),
        ("train:\n  steps: 3\nprompt:\n  template: custom\n  custom: {prompt: hi}\n", "{question}"),
    ],
)
def test_settings_that_contradict(recipe_file, section, expected):
    assert expected in failure(recipe_file(MINIMAL.split("train:")[0] + section))


def test_held_out_wants_one_of_rows_and_fraction(recipe_file):
    path = recipe_file(MINIMAL)
    text = failure(path, "data.held_out.rows=3", "data.held_out.fraction=0.5")
    assert "rows or fraction, not both" in text
    assert "needs a path" in failure(path, "data.sources.0.source=file")


def test_byte_order_marks_are_read(recipe_file):
    for raw in (b"\xef\xbb\xbf" + MINIMAL.encode(), MINIMAL.encode("utf-16")):
        assert load_recipe(recipe_file(raw)).name == "small"


MUTATIONS: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n\n",
    "comment only": b"# nothing\n",
    "nul": b"name: a\x00b\n",
    "latin-1": "name: é\n".encode("latin-1"),
    "utf-16 without mark": MINIMAL.encode("utf-16-le"),
    "odd utf-16": b"\xff\xfea",
    "list": b"- a\n- b\n",
    "scalar": b"hello\n",
    "tab": b"name:\n\t- x\n",
    "unclosed quote": b'name: "x\n',
    "unclosed brace": b"model: {path: x\n",
    "two documents": MINIMAL.encode() + b"---\nname: b\n",
    "python tag": b"name: !!python/object/apply:os.system ['true']\n",
    "unknown tag": b"name: !thing x\n",
    "bad alias": b"name: *nothing\n",
    "self reference": b"model: &a\n  path: *a\n",
    "alias bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(8)
    ),
    "deep": b"a: " + b"[" * 3000 + b"]" * 3000,
    "deep mapping": b"".join(b" " * i + b"a:\n" for i in range(500)),
    "large": b"a: " + b"x" * (1 << 21),
    "list as key": b"[1, 2]: 3\n",
    "number keys": b"1: 2\n3.5: 4\n",
    "date name": b"name: 2026-01-01\nmodel: 3\n",
    "bad timestamp": b"name: 2026-13-45\nx: 0x_\n",
    "binary": b"name: !!binary aGVsbG8\n",
    "inf": MINIMAL.replace("steps: 3", "steps: .inf").encode(),
    "nan": MINIMAL.replace("steps: 3", "steps: 3\n  learning_rate: .nan").encode(),
    "negative": MINIMAL.replace("steps: 3", "steps: -3").encode(),
    "float steps": MINIMAL.replace("steps: 3", "steps: 3.5").encode(),
    "bool steps": MINIMAL.replace("steps: 3", "steps: [true]").encode(),
    "huge int": MINIMAL.replace("steps: 3", "steps: " + "9" * 5000).encode(),
    "null section": MINIMAL.replace("  steps: 3", "").encode(),
    "section as list": MINIMAL.replace("train:\n  steps: 3", "train: [steps]").encode(),
    "section as text": MINIMAL.replace("train:\n  steps: 3", "train: steps").encode(),
    "no sources": MINIMAL.replace("    - source: starter", "    []").encode(),
    "sources as mapping": MINIMAL.replace("    - source: starter", "    source: starter").encode(),
    "source as text": MINIMAL.replace("- source: starter", "- starter").encode(),
    "unknown source": MINIMAL.replace("starter", "startr").encode(),
    "name with slash": MINIMAL.replace("small", "../../etc").encode(),
    "empty name": MINIMAL.replace("small", "''").encode(),
    "json": b'{"name": "x"',
    "binary file": bytes(range(256)) * 4,
    "gguf": b"GGUF" + bytes(60),
    "merge key": b"base: &b {path: x}\nmodel:\n  <<: *b\n",
    "control": b"name: a\x07b\n",
    "lone surrogate": b'name: "\\ud800"\n',
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_broken_recipe_gets_one_clear_error(recipe_file, name):
    path = recipe_file(MUTATIONS[name])
    text = failure(path)
    assert "recipe.yaml" in text
    assert len(text) < 4000


@pytest.mark.parametrize("cut", range(0, len(MINIMAL), 5))
def test_truncated_recipe_loads_or_says_where(recipe_file, cut):
    path = recipe_file(MINIMAL[:cut])
    try:
        load_recipe(path)
    except ConfigError as error:
        said = str(error)
    else:
        said = "recipe.yaml is valid"
    assert "recipe.yaml" in said


def test_missing_file_and_folder(tmp_path):
    assert "cannot be read" in failure(tmp_path / "none.yaml")
    assert "folder" in failure(tmp_path)
    assert "not a file's name" in failure(Path("a\0b"))
