import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from audiotok.checkpoint import plain, read_json, read_yaml, write_json
from audiotok.errors import CheckpointError

GOOD_YAML = """
# a codec's configuration
sample_rate: 24000
ratios: [8, 5, 4, 2]
model: {name: "seanet", causal: false, norm: null}
rates: &rates
  - 1.5
  - 3.0
again: *rates
base: &base {a: 1, b: 2}
derived:
  <<: *base
  b: 3
released: 2024-05-01
"""


def test_json_comes_back_as_it_went_and_is_sorted(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": {"ü": "naïve"}}
    write_json(tmp_path / "config.json", value)
    assert read_json(tmp_path / "config.json") == value
    assert list(read_json(tmp_path / "config.json")) == ["a", "b"]
    assert "naïve" in (tmp_path / "config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[1, 2]", "a JSON list"),
        (b"null", "a JSON NoneType"),
        (b'{"a": "\xff"}', "codec can't decode"),
        (b'{"a":' * 100_000, "recursion"),
        (b'{"a": ' + b"1" * 5000 + b"}", "limit"),
        (b"{}" + b" " * (16 * 1024**2), "more than 16777216 bytes"),
    ],
)
def test_what_is_not_a_json_object_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"config\.json: wanted a JSON object, found .*{words}"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("value", [[1], {"a": float("nan")}, {"a": b"x"}, {"a": {1, 2}}, {1: "a", "b": 2}])
def test_what_json_cannot_hold_is_not_written(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="wanted an object that can be written as JSON"):
        write_json(tmp_path / "config.json", value)
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_contains_itself_is_not_written(tmp_path: Path) -> None:
    value: dict[str, Any] = {}
    value["a"] = value
    with pytest.raises(CheckpointError, match="Circular"):
        write_json(tmp_path / "config.json", value)


def test_yaml_is_read_as_plain_data(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(GOOD_YAML)
    assert read_yaml(tmp_path / "config.yaml") == {
        "sample_rate": 24000,
        "ratios": [8, 5, 4, 2],
        "model": {"name": "seanet", "causal": False, "norm": None},
        "rates": [1.5, 3.0],
        "again": [1.5, 3.0],
        "base": {"a": 1, "b": 2},
        "derived": {"a": 1, "b": 3},
        "released": "2024-05-01",
    }


def test_yaml_tags_are_refused_and_their_payload_does_not_run(tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "hyperparams.yaml"
    path.write_text(f'a: 1\nb: !!python/object/apply:builtins.open ["{mark}", "w"]\n')
    yaml.unsafe_load(path.read_text())["b"].close()
    assert mark.exists()  # the trap works where nobody takes care
    mark.unlink()
    with pytest.raises(
        CheckpointError, match=r"the tag 'tag:yaml.org,2002:python/object/apply:builtins.open' on line 2"
    ):
        read_yaml(path)


@pytest.mark.parametrize(
    "text",
    [
        "b: !new:builtins.open ['MARK', 'w']",
        "b: !new:builtins.open\n  file: MARK\n  mode: w",
        "b: !apply:builtins.open ['MARK', 'w']",
        "b: !name:builtins.open",
        "b: !module:os",
        "b: !ref <a>",
        "b: !include:other.yaml",
        "b: !!python/object/new:builtins.open ['MARK', 'w']",
        "b: !!python/name:builtins.open",
        "b: !!python/module:os",
        "b: !!python/tuple [1, 2]",
        "b: !!binary aGVsbG8=",
        "? !new:builtins.open ['MARK', 'w']\n: 1",
        "b: [[[{c: !new:builtins.open ['MARK', 'w']}]]]",
        "!new:builtins.open ['MARK', 'w']",
        "b: !<tag:yaml.org,2002:python/name:os.system> x",
        "%TAG !y! tag:yaml.org,2002:python/\n---\nb: !y!name:os.system x",
    ],
)
def test_every_tag_is_refused(tmp_path: Path, mark: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(f"{text}\n".replace("MARK", str(mark)))
    with pytest.raises(CheckpointError, match=r"the tag .* on line .* never followed"):
        read_yaml(tmp_path / "config.yaml")


def laughs(levels: int, line: str) -> str:
    lines = ["a0: &a0 {x: lol, y: lol}"]
    lines += [f"a{n}: &a{n} " + line.replace("?", f"*a{n - 1}") for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "line", ["[?, ?, ?, ?, ?, ?, ?, ?, ?]", "{b: ?, c: ?, d: ?}", "{<<: [?, ?, ?, ?, ?, ?, ?, ?, ?]}"]
)
def test_alias_bombs_are_refused_at_once(tmp_path: Path, line: str) -> None:
    (tmp_path / "config.yaml").write_text(laughs(30, line))
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match="aliases that write out to more than"):
        read_yaml(tmp_path / "config.yaml")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1, *x]", "an alias to a value that contains it"),
        ("a: &x {b: *x}", "an alias to a value that contains it"),
        ("[1, 2]", "a list"),
        ("", "a NoneType"),
        ("just words", "a str"),
        ("1: a", "keys that are not texts"),
        ("a: [1", "expected"),
        ("a: b: c", "mapping values are not allowed"),
        ("a: *b", "undefined alias"),
        ("? [1, 2]\n: 3", "unhashable"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: !!int x", "invalid literal"),
        ("a: " + "[" * 50_000, "recursion"),
        ("a: " + "1" * 5000, "limit"),
        ("a: \x07", "special characters"),
        ("a: x\n" + "# padding\n" * 110_000, "more than 1048576 bytes"),
    ],
)
def test_what_is_not_a_mapping_of_plain_data_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=rf"config\.yaml: wanted a YAML mapping of plain data, found .*{words}"):
        read_yaml(tmp_path / "config.yaml")


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"a: \xff\xfe\xfd")
    with pytest.raises(CheckpointError, match="wanted a YAML mapping"):
        read_yaml(tmp_path / "config.yaml")


def test_damaged_yaml_and_json_give_data_or_checkpoint_error(fuzz: Any) -> None:
    fuzz(read_yaml, GOOD_YAML.encode(), strict=False)
    fuzz(read_json, json.dumps({"a": [1, 2.5, "x"], "b": {"c": None}}).encode())


def test_a_file_within_the_limit_can_never_be_taken_for_a_bomb() -> None:
    assert plain.MAX_YAML_NODES >= plain.MAX_YAML_BYTES
