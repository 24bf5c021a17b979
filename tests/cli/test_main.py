import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from audiotok.cli import exits, main
from audiotok.errors import CheckpointError, HubError, InputError, MissingDependencyError

COMMANDS = ("list", "info", "encode", "decode", "fit", "convert", "parity", "demo")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def audiotok(*argv, **options):
    """The command line as a process."""
    command = [sys.executable, "-c", "import sys; from audiotok.cli import main; sys.exit(main())", *map(str, argv)]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, **options)


def test_help_names_commands_and_exit_codes(run):
    result = run("--help")
    assert result.code == 0
    for word in (*COMMANDS, *exits.MEANINGS.values()):
        assert word in result.text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_examples_and_exit_codes(run, command):
    result = run(command, "--help")
    assert result.code == 0
    assert f"examples:\n  audiotok {command}" in result.text
    assert "  1   some items failed" in result.text
    assert max(map(len, result.text.splitlines())) <= 125


def test_version(run):
    assert run("--version").text == f"audiotok {version('audiotok')}\n"


@pytest.mark.parametrize("argv", [[], ["sing"], ["list", "--loud"], ["list", "--js"]])
def test_wrong_usage_is_2(run, argv):
    result = run(*argv)
    assert (result.code, result.out) == (2, b"")
    assert "usage: audiotok" in result.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("no"), 2),
        (OSError("no"), 2),
        (CheckpointError("no"), 3),
        (HubError("no"), 3),
        (MissingDependencyError("no"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes_of_errors(run, monkeypatch, error, code):
    def fail(pattern):
        raise error

    monkeypatch.setattr("audiotok.cli.listing.list_tokenizers", fail)
    result = run("list", "--json")
    assert (result.code, result.out) == (code, b"")
    assert result.err == ("interrupted\n" if code == 130 else "audiotok: no\n")


def test_a_disk_that_is_full_is_not_a_tokenizer_that_cannot_be_loaded(tmp_path):
    from audiotok.checkpoint import CheckpointWriteError, write_json

    with pytest.raises(CheckpointWriteError) as caught:
        write_json(tmp_path / "no" / "folder.json", {})
    assert exits.exit_of(caught.value) == 2


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("AUDIOTOK_DEBUG", "1")
    with pytest.raises(CheckpointError):
        main(["info", "/"])
    monkeypatch.setenv("AUDIOTOK_DEBUG", "0")
    assert main(["info", "/"]) == 3


def test_a_pipe_of_processes_gives_back_every_sample(model, clip, tmp_path):
    with clip.open("rb") as audio, (tmp_path / "a.wav").open("wb") as out:
        encode = audiotok("encode", "-", "-o", "-", "--model", model, stdin=audio, stdout=subprocess.PIPE)
        decode = audiotok("decode", "-", "-o", "-", "--model", model, stdin=encode.stdout, stdout=out)
        encode.stdout.close()
        errors = [process.communicate()[1] for process in (decode, encode)]
    assert (encode.returncode, decode.returncode) == (0, 0), errors
    import soundfile

    assert soundfile.info(tmp_path / "a.wav").frames == 42896


def test_a_reader_that_goes_away_is_141_without_a_traceback():
    process = audiotok("list", "--json", stdout=subprocess.PIPE)
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err) == (141, b"")


def test_listing_and_help_import_nothing_heavy():
    code = (
        "import sys; from audiotok.cli import main; main(['list', '--json']); main(['--help']); print()\n"
        "heavy = {'transformers', 'faiss', 'sklearn', 'matplotlib', 'pystoi', 'scipy', 'huggingface_hub'}\n"
        "print(*sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    lines = result.stdout.splitlines()
    assert json.loads(lines[0])["tokenizers"]
    assert lines[-1] == ""
