"""Methods that `torch.compile` leaves as they are."""

import subprocess
import sys

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from audiotok.nn.compiler import left_to_eager


@left_to_eager("hidden")
class Module(nn.Module):
    """`hidden` does what no compiler can trace."""

    def hidden(self, x: Tensor) -> Tensor:
        """x times the sum of its values, which leaves torch in between."""
        assert not torch.compiler.is_compiling()
        return x * sum(float(value) for value in x.tolist())

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden(x + 1) * 2


def test_the_method_is_one_graph_break_also_where_its_first_call_is_a_compiled_one():
    torch._dynamo.reset()
    compiled = torch.compile(Module(), backend="eager")
    x = torch.tensor([1.0, 2.0])
    for _ in range(2):  # the first call exchanges the method, which is compiled anew
        assert compiled(x).tolist() == [20.0, 30.0]
    counters.clear()
    for _ in range(5):
        assert compiled(x).tolist() == [20.0, 30.0]
    assert counters["frames"]["total"] == 0
    assert Module.hidden.__doc__.startswith("x times the sum")


def test_encoding_does_not_import_the_compiler():
    code = (
        "import sys, torch, audiotok; tok = audiotok.load(); tok.decode(tok.encode(torch.zeros(1000)));"
        "print('torch._dynamo' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
