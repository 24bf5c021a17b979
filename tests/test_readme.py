"""What the README's code calls exists after `import audiotok`, and its commands are commands."""

import re
import subprocess
import sys
from pathlib import Path

from audiotok.cli import _parser

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_names_of_the_code_exist_after_one_import():
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    names = sorted(set(re.findall(r"\baudiotok(?:\.\w+)+", code)))
    assert {"audiotok.lm.Layout", "audiotok.tokenize_dataset", "audiotok.open_codes"} <= set(names)
    subprocess.run([sys.executable, "-c", "import audiotok\n" + "\n".join(names)], check=True)


def test_commands_exist():
    known = next(a.choices for a in _parser()._actions if a.choices and "encode" in a.choices)
    named = set(re.findall(r"^audiotok ([a-z]+)", README, re.MULTILINE))
    assert {"tokenize", "fit", "encode"} <= named <= set(known)
