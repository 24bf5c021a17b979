"""A module imports only from lower layers, or from its own folder. docs/architecture.md draws the map."""

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "audiotok"
LAYERS = {
    "errors": 0,
    **dict.fromkeys(("files", "pieces", "spec", "workers"), 1),
    **dict.fromkeys(("audio", "card", "catalog", "checkpoint", "nn", "plotting", "quantize"), 2),
    **dict.fromkeys(("codes", "registry", "sources"), 3),
    **dict.fromkeys(("cluster", "inputs", "streams"), 4),
    "tokenizer": 5,
    **dict.fromkeys(("codec", "hub", "ssl"), 6),
    **dict.fromkeys(("backends", "convert", "dataset", "fit", "lm", "testing", "train"), 7),
    "evaluate": 8,
    **dict.fromkeys(("__init__", "cli"), 9),
    "__main__": 10,
}


def unit(path: Path) -> str:
    """The top-level module or folder that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Units of audiotok that a file imports, wherever in the file it does so."""
    package = ["audiotok", *path.relative_to(SOURCE).with_suffix("").parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            names = [module] if len(module) > 1 else [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        for name in names:
            if name[0] == "audiotok":
                found.add(name[1] if len(name) > 1 else "__init__")
    return found


def test_every_module_has_a_layer():
    assert {unit(path) for path in SOURCE.rglob("*.py")} <= LAYERS.keys()


def test_modules_import_only_from_lower_layers():
    wrong = [
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in SOURCE.rglob("*.py")
        for name in imported(path)
        if name != unit(path) and LAYERS[name] >= LAYERS[unit(path)]
    ]
    assert wrong == []


def test_the_check_sees_a_wrong_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "quantize").mkdir()
    (tmp_path / "quantize" / "a.py").write_text("def f():\n    from ..hub import load\n    import audiotok.cli.main\n")
    assert imported(tmp_path / "quantize" / "a.py") == {"hub", "cli"}


def test_listing_tokenizers_imports_nothing_heavy():
    code = (
        "import sys, audiotok; assert audiotok.list_tokenizers();"
        "heavy = ('transformers', 'faiss', 'sklearn', 'matplotlib', 'ray', 'huggingface_hub', 'encodec', 'dac',"
        "'pyarrow', 'pandas', 'datasets', 'lhotse', 'tokenizers', 'constriction', 'torch._dynamo');"
        "print(*[name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
