"""Broken and hostile checkpoints of every format: refused with a message that names the file, nothing run, little
memory and time spent. A changed number that no weight bears witness to (a sample rate) may make another tokenizer,
which must then work."""

import json
import os
import pickle
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from audiotok import Tokenizer
from audiotok.convert import READERS
from audiotok.errors import CheckpointError, InputError

from .formats import FORMATS, Format, Where, at, leaves
from .test_s3tokenizer import V2, onnx_of, weights_of

every_format = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
#: One for each weights file: formats whose file holds several state dicts are listed several times.
every_file = pytest.mark.parametrize(
    "form", {form.folder / form.weights: form for form in FORMATS}.values(), ids=lambda form: form.name
)
every_torch_file = pytest.mark.parametrize(
    "form", [form for form in FORMATS if not form.weights.endswith(".safetensors")], ids=lambda form: form.name
)
described = pytest.mark.parametrize(
    "form",
    {form.folder / form.config: form for form in FORMATS if form.config or form.inside}.values(),
    ids=lambda form: form.name,
)

MAX_SECONDS, MAX_BYTES = 5.0, 200 << 20  # of a refusal, beyond what reading the whole file took

Change = Callable[[Any], Any]


class Trap:
    """Something whose unpickling makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@cache
def whole(form: Format) -> Tokenizer:
    """The tokenizer of the unchanged fixture, its first run behind it."""
    tokenizer = form.read(form.folder)
    run(tokenizer)
    return tokenizer


def run(tokenizer: Tokenizer) -> None:
    """Encodes and decodes 0.2 s."""
    samples = max(1, tokenizer.spec.sample_rate // 5)
    wav = 0.1 * torch.randn(1, tokenizer.spec.channels, samples, generator=torch.Generator().manual_seed(0))
    codes = tokenizer.encode(wav)
    assert codes.num_samples.tolist() == [samples]
    if tokenizer.spec.decodable:
        assert tokenizer.decode(codes).shape[2] == tokenizer.spec.output_samples(samples)


@contextmanager
def cheaply() -> Iterator[None]:
    before, start = peak_bytes(), time.process_time()
    yield
    seconds, grown = time.process_time() - start, peak_bytes() - before
    assert seconds < MAX_SECONDS, f"{seconds:.1f} s of CPU"
    assert grown < MAX_BYTES, f"{grown >> 20} MiB more"


def peak_bytes() -> int:
    """Most memory that this process ever held."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def refuse(form: Format, folder: Path) -> str:
    """The message of the refusal, which must name a file of the folder."""
    whole(form)
    with cheaply(), pytest.raises(CheckpointError) as caught:
        form.read(folder)
    assert str(folder) in str(caught.value), f"names no file: {caught.value}"
    assert len(str(caught.value)) < 2000
    return str(caught.value)


@contextmanager
def suppress_named(folder: Path) -> Iterator[None]:
    """Catches a `CheckpointError` that names a file of the folder."""
    try:
        yield
    except CheckpointError as error:
        if str(folder) not in str(error):
            raise AssertionError(f"names no file: {error}") from error


def outcome(form: Format, folder: Path) -> str:
    """What became of a folder: "refused", "same" (what was changed is not used) or "another", which works."""
    tokenizer = None
    with cheaply(), suppress_named(folder):
        tokenizer = form.read(folder)
    if tokenizer is None:
        return "refused"
    if tokenizer.fingerprint == whole(form).fingerprint:
        return "same"
    with cheaply():
        run(tokenizer)
    return "another"


def test_every_family_that_convert_reads_is_here():
    assert {form.family for form in FORMATS} == READERS.keys() - {"logmel-kmeans", "ssl-kmeans"}


# ---- files -------------------------------------------------------------------------------------------


@every_file
def test_links_to_files_are_fine(form, tmp_path):
    assert form.read(form.staged(tmp_path / "links")).fingerprint == whole(form).fingerprint


def files() -> dict[str, Callable[[bytes, Path], bytes]]:
    """What may lie in place of a file, made of its bytes and the path of a canary."""
    return {
        "empty": lambda data, canary: b"",
        "half": lambda data, canary: data[: len(data) // 2],
        "a byte short": lambda data, canary: data[:-1],
        "zeros": lambda data, canary: bytes(len(data)),
        "random bytes": lambda data, canary: random.Random(0).randbytes(len(data)),
        "pickle": lambda data, canary: pickle.dumps(Trap(canary)),
        "pickle in a state dict": lambda data, canary: pickle.dumps({"weight": Trap(canary)}, protocol=2),
        "text": lambda data, canary: b"<html>404</html>",
    }


@every_file
@pytest.mark.parametrize("what", ["missing", "a folder", *files()])
def test_no_weights_in_place_of_the_weights(form, what, tmp_path):
    folder, canary = form.staged(tmp_path / "broken", form.weights), tmp_path / "canary"
    path = folder / form.weights
    if what == "a folder":
        path.mkdir()
    elif what != "missing":
        path.write_bytes(files()[what]((form.folder / form.weights).read_bytes(), canary))
    refuse(form, folder)
    assert not canary.exists()


@every_file
def test_the_weights_of_another_family(form, tmp_path):
    suffix = Path(form.weights).suffix
    others = [other for other in FORMATS if other.family != form.family]
    others = [other for other in others if Path(other.weights).suffix == suffix] or others
    for i, other in enumerate(others[:: max(1, len(others) // 2)]):
        folder = form.staged(tmp_path / str(i), form.weights)
        (folder / form.weights).symlink_to(other.folder / other.weights)
        refuse(form, folder)


@pytest.mark.parametrize("what", files())
def test_no_onnx_in_place_of_an_onnx(what, tmp_path):
    data, canary = onnx_of(V2, weights_of(V2)), tmp_path / "canary"
    form = Format("onnx", "s3tokenizer", V2, "speech_tokenizer_v2.onnx")
    path = tmp_path / form.weights
    path.write_bytes(data)
    form.read(path)
    path.write_bytes(files()[what](data, canary))
    with cheaply(), pytest.raises(CheckpointError, match=r"speech_tokenizer_v2\.onnx"):
        form.read(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda value: torch.cat([value, value[:1]]),
        lambda value: value[:0],
        lambda value: value.long(),
        lambda value: torch.full_like(value, torch.nan),
    ],
    ids=["another shape", "no rows", "integers", "NaN"],
)
def test_weights_that_do_not_fit_in_an_onnx(change, tmp_path):
    weights = weights_of(V2)
    for name in ("encoder.conv2.bias", "encoder.blocks.0.attn.out.weight", "quantizer._codebook.project_down.bias"):
        path = tmp_path / "speech_tokenizer_v2.onnx"
        path.write_bytes(onnx_of(V2, weights | {name: change(weights[name])}))
        with cheaply(), pytest.raises(CheckpointError, match=r"speech_tokenizer_v2\.onnx"):
            Format("onnx", "s3tokenizer", V2, path.name).read(path)


# ---- weights -----------------------------------------------------------------------------------------


@cache
def used(form: Format) -> list[str]:
    """Names of three weights that the network cannot do without."""
    names = [
        name for name, value in form.state(form.saved()).items() if value.is_floating_point() and value.numel() > 1
    ]
    found: list[str] = []
    for name in dict.fromkeys(names[i * (len(names) - 1) // 8] for i in (0, 4, 8, 2, 6, 1, 3, 5, 7)):
        with tempfile.TemporaryDirectory() as folder:
            saved = form.saved()
            del form.state(saved)[name]
            form.save(saved, form.staged(Path(folder), form.weights))
            if outcome(form, Path(folder)) == "refused":
                found.append(name)
        if len(found) == 3:
            break
    return found


def put(form: Format, number: int, change: Change, folder: Path) -> Path:
    """A staged folder with one of the three changed."""
    saved = form.saved()
    state, names = form.state(saved), used(form)
    name = names[number % len(names)]
    state[name] = change(state[name])
    form.save(saved, form.staged(folder, form.weights))
    return folder


ANY_FILE: dict[str, Change] = {
    "another shape": lambda value: torch.cat([value, value[:1]]),
    "no rows": lambda value: value[:0].clone(),
    "one axis more": lambda value: value[None].clone(),
    "a single number": lambda value: value.flatten()[0].clone(),
    "integers": lambda value: value.long(),
    "complex numbers": lambda value: value.to(torch.complex64),
    "NaN": lambda value: torch.full_like(value, torch.nan),
    "infinity": lambda value: torch.full_like(value, -torch.inf),
}
TORCH_FILE: dict[str, Change] = {
    "sparse": lambda value: value.to_sparse(),
    "terabytes of stride 0": lambda value: torch.zeros(1).expand(10**12),
    "stride 0": lambda value: torch.zeros(1).expand(value.shape),
    "no memory": lambda value: torch.empty_like(value, device="meta"),
    "terabytes without memory": lambda value: torch.empty(10**12, device="meta"),
    "numbers of 8 bits": lambda value: value.to(torch.float8_e4m3fn),
    "a number": lambda value: 3,
    "None": lambda value: None,
    "a dict": lambda value: {"weight": value},
}


@every_format
@pytest.mark.parametrize("what", ANY_FILE)
def test_weights_that_do_not_fit(form, what, tmp_path):
    """Weights that are NaN or infinite, with which upstream computes something, are refused too."""
    refuse(form, put(form, list(ANY_FILE).index(what), ANY_FILE[what], tmp_path / "a"))


@every_torch_file
@pytest.mark.parametrize("what", TORCH_FILE)
def test_no_dense_tensors_in_a_torch_file(form, what, tmp_path):
    refuse(form, put(form, list(TORCH_FILE).index(what), TORCH_FILE[what], tmp_path / "a"))


@every_torch_file
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_weights(form, tmp_path):
    refuse(form, put(form, 0, lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), tmp_path / "a"))


@every_format
def test_a_tensor_missing(form):
    assert len(used(form)) == 3


@every_format
def test_a_tensor_too_many(form, tmp_path):
    saved = form.saved()
    form.state(saved)[used(form)[1].rpartition(".")[0] + ".surplus"] = torch.zeros(3)
    form.save(saved, form.staged(tmp_path / "more", form.weights))
    refuse(form, tmp_path / "more")


@every_torch_file
def test_a_state_dict_that_is_none(form, tmp_path):
    none: list[Any] = [3, [torch.zeros(2)], torch.zeros(2), {}, {3: torch.zeros(2)}, {("a",): torch.zeros(2)}]
    for i, value in enumerate(none):
        saved, where = form.saved(), form.states[0]
        if where:
            at(saved, where[:-1])[where[-1]] = value
        else:
            saved = value
        form.save(saved, form.staged(tmp_path / str(i), form.weights))
        refuse(form, tmp_path / str(i))


@every_torch_file
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_a_call_hidden_among_the_weights(form, zipped, tmp_path):
    canary = tmp_path / "canary"

    def trapped() -> Iterator[Any]:
        for name in (used(form)[1], "surplus"):
            saved = form.saved()
            form.state(saved)[name] = Trap(canary)
            yield saved
        if form.inside:
            saved = form.saved()
            at(saved, form.inside[:-1])[form.inside[-1]] = Trap(canary)
            yield saved
        yield Trap(canary)

    for i, saved in enumerate(trapped()):
        folder = form.staged(tmp_path / str(i), form.weights)
        torch.save(saved, folder / form.weights, _use_new_zipfile_serialization=zipped)
        assert "request for" in refuse(form, folder)
        assert not canary.exists()
    torch.load(folder / form.weights, weights_only=False)
    assert canary.exists(), "the trap works"


@pytest.mark.parametrize("family", ["xcodec", "xcodec2", "neucodec", "higgs-audio-v2"])
def test_a_call_hidden_in_the_other_kind_of_file_that_transformers_has(family, tmp_path):
    form = next(form for form in FORMATS if form.family == family)
    folder, canary = form.staged(tmp_path / "a", form.weights), tmp_path / "canary"
    saved = form.saved()
    saved[used(form)[0]] = Trap(canary)
    torch.save(saved, folder / "pytorch_model.bin")
    assert "request for" in refuse(form, folder)
    assert not canary.exists()


# ---- descriptions ------------------------------------------------------------------------------------

VALUES: list[Any] = [0, -1, 10**9, 1e308, "text", None, [3]]
_BY_DEFAULT = 21  # of a format, when slow tests are not asked for


ASKS = r"give (config|\w+=)"  # an argument, for what no file tells
#: What goes by the published models where there is no description.
NEED_NONE = {"encodec", "encodec-48khz", "mimi", "s3tokenizer-v2-25hz", "wavtokenizer"}


def changed_numbers(form: Format) -> list[tuple[Where, Any]]:
    places = [where for where, value in leaves(form.described()) if isinstance(value, int | float)]
    places = [where for where in places if not isinstance(at(form.described(), where), bool)]
    return [(where, VALUES[(i + j) % len(VALUES)]) for j in range(len(VALUES)) for i, where in enumerate(places)]


def assert_refused_or_works(form: Format, changes: list[tuple[Where, Any]], folder: Path) -> None:
    wrong, outcomes = [], set()
    for i, (where, value) in enumerate(changes):
        values = form.described()
        at(values, where[:-1])[where[-1]] = value
        form.describe(values, folder / str(i))
        try:
            outcomes.add(outcome(form, folder / str(i)))
        except InputError as error:
            if value is not None or not re.search(ASKS, str(error)):
                wrong.append(f"{where} = {value!r}: InputError: {error}")
        except Exception as error:  # whatever it is, it is the finding
            wrong.append(f"{where} = {value!r}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)
    assert "refused" in outcomes


@described
def test_a_number_that_is_something_else(form, tmp_path):
    changes = changed_numbers(form)
    assert_refused_or_works(form, changes[:: -(-len(changes) // _BY_DEFAULT)], tmp_path)


@pytest.mark.slow
@described
def test_every_number_that_is_something_else(form, tmp_path):
    assert_refused_or_works(form, changed_numbers(form), tmp_path)


@described
def test_a_switch_is_true_or_false_and_no_text(form, tmp_path):
    """ "false" is true to Python."""
    for i, (where, value) in enumerate(leaves(form.described())):
        if not isinstance(value, bool):
            continue
        values = form.described()
        at(values, where[:-1])[where[-1]] = str(not value).lower()
        form.describe(values, tmp_path / str(i))
        assert outcome(form, tmp_path / str(i)) in ("refused", "same"), where


@described
def test_names_of_code_are_data(form, tmp_path, monkeypatch):
    """Texts that other readers follow to a class: they may make another tokenizer, but import nothing."""
    canary = tmp_path / "canary"
    (tmp_path / "hostile_module.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Hostile: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    texts = [where for where, value in leaves(form.described()) if isinstance(value, str)]
    for i, where in enumerate([*texts[:: len(texts) // 4 + 1], None]):
        values = form.described()
        if where is None:
            code = ("class_path", "_target_", "__class__", "auto_map", "py/object")
            values |= dict.fromkeys(code, "hostile_module.Hostile")
        else:
            at(values, where[:-1])[where[-1]] = "hostile_module.Hostile"
        form.describe(values, tmp_path / str(i))
        outcome(form, tmp_path / str(i))
    assert not canary.exists()
    assert "hostile_module" not in sys.modules


@described
@pytest.mark.parametrize("what", ["empty", "half", "random bytes", "a list", "deep", "a folder", "missing"])
def test_no_description_in_place_of_a_description(form, what, tmp_path):
    if form.inside is not None:
        form.describe({} if what == "empty" else [3], tmp_path / "b")
        refuse(form, tmp_path / "b")
        return
    folder = form.staged(tmp_path / "b", form.config)
    path, data = folder / form.config, (form.folder / form.config).read_bytes()
    if what == "a folder":
        path.mkdir()
    elif what != "missing":
        others = {"a list": b"[1, 2, 3]", "deep": b"[" * 200_000}
        path.write_bytes(others[what] if what in others else files()[what](data, tmp_path))
    if what in ("a folder", "missing") and form.name in NEED_NONE:
        outcome(form, folder)
    elif what == "missing" and form.family == "ticodec":
        with pytest.raises(InputError, match=ASKS):
            form.read(folder)
    else:
        refuse(form, folder)


@described
def test_ten_megabytes_of_description(form, tmp_path):
    folder, much = form.describe(form.described(), tmp_path / "b"), "x" * (10 << 20)
    if form.inside is not None:
        saved = form.saved()
        found = at(saved, form.inside)
        longer = f"{found}\nsurplus: {much}" if isinstance(found, str) else {**found, "surplus": much}
        at(saved, form.inside[:-1])[form.inside[-1]] = longer
        form.save(saved, folder)
    else:
        path = folder / form.config
        text = path.read_text("utf-8").strip()
        longer = text[:-1] + f', "surplus": "{much}"}}' if form.config.endswith(".json") else f"{text}\nsurplus: {much}"
        path.write_text(longer, "utf-8")
    whole(form)
    assert outcome(form, folder) in ("refused", "same")


TAGS = [
    "!!python/object/apply:os.system ['touch {canary}']",
    "!!python/object/new:os.system ['touch {canary}']",
    "!!python/name:os.system ''",
    "!new:os.system ['touch {canary}']",
    "!apply:os.system ['touch {canary}']",
    "!include {canary}",
]


@pytest.mark.parametrize(
    "form",
    [form for form in FORMATS if form.config.endswith(".yaml") or form.name == "encodec-audiocraft"],
    ids=lambda form: form.name,
)
@pytest.mark.parametrize("tag", TAGS)
def test_tags_that_ask_for_code(form, tag, tmp_path):
    canary = tmp_path / "canary"
    for i, where in enumerate(("surplus", None)):
        values = form.described()
        place = "TAG" if where is None else values
        text = json.dumps({where: "TAG", **values} if where else place).replace('"TAG"', tag.format(canary=canary), 1)
        folder = tmp_path / str(i)
        if form.inside is None:
            form.staged(folder, form.config)
            (folder / form.config).write_text(text, "utf-8")
        else:
            saved = form.saved()
            at(saved, form.inside[:-1])[form.inside[-1]] = text
            form.save(saved, form.staged(folder, form.weights))
        assert "tag" in refuse(form, folder)
    assert not canary.exists()
