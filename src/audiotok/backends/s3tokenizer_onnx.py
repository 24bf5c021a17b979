"""The published `speech_tokenizer_v*.onnx` of CosyVoice as a state dict.

The exporter kept no names for most weights ("onnx::MatMul_2228"), but the name of a node is the path of the module it
came from ("/blocks.0/attn/query/MatMul"): a weight is known by the node that uses it. Steps and epsilons are read off
the nodes as well.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import OnnxNode, read_onnx
from ..errors import CheckpointError

_PARTS = re.compile(r"blocks\.(\d{1,4})/(attn_ln|mlp_ln|attn/(?:query|key|value|out)|mlp/mlp\.[02])/")
_MEMORY = re.compile(r"blocks\.(\d{1,4})[/.]attn[/.]fsmn_block")


@dataclass(frozen=True)
class S3Onnx:
    """What a file holds: weights by the names of the s3tokenizer package, and facts that these do not tell."""

    state: dict[str, Tensor]
    stride: int
    attention_norm_eps: float
    mlp_norm_eps: float


def read_s3_onnx(path: Path) -> S3Onnx:
    """Reads an ONNX file of S3Tokenizer v1, v2 or v3.

    Raises:
        CheckpointError: it is missing, broken, or the graph of something else.
    """
    return _Graph(path).found()


class _Graph:
    def __init__(self, path: Path) -> None:
        self.path = path
        graph = read_onnx(path)
        self.nodes = graph.nodes
        self.tensors = dict(graph.initializers)
        self.state: dict[str, Tensor] = {}
        self.convs: list[OnnxNode] = []
        self.epsilons: dict[str, set[float]] = {"attn_ln": set(), "mlp_ln": set()}
        for node in self.nodes:  # weights under another name, and weights that are nodes
            value = node.attributes.get("value") if node.op == "Constant" else None
            if node.op == "Identity" and node.inputs[:1] and node.inputs[0] in self.tensors:
                value = self.tensors[node.inputs[0]]
            if isinstance(value, Tensor):
                self.tensors.update(dict.fromkeys(node.outputs[:1], value))

    def found(self) -> S3Onnx:
        for node in self.nodes:
            part = _PARTS.search(node.name)
            if node.op == "Conv":
                self._conv(node)
            elif part and part[2].endswith("_ln"):
                self._norm(node, part[2], f"encoder.blocks.{part[1]}.{part[2]}")
            elif part:
                name = part[2].replace("mlp/", "").replace("/", ".")
                self._linear(node, f"encoder.blocks.{part[1]}.{name}")
        for name, tensor in self.tensors.items():
            if name.endswith("positional_embedding"):
                self._put("encoder.positional_embedding", tensor)
        self._quantizer()
        return S3Onnx(self.state, self._stride(), self._epsilon("attn_ln"), self._epsilon("mlp_ln"))

    def _conv(self, node: OnnxNode) -> None:
        memory = _MEMORY.search(" ".join((node.name, *node.inputs)))
        if memory is None:
            self.convs.append(node)
        prefix = f"encoder.blocks.{memory[1]}.attn.fsmn_block" if memory else f"encoder.conv{len(self.convs)}"
        for kind, value in zip(("weight", "bias"), node.inputs[1:], strict=False):
            if value in self.tensors:
                self._put(f"{prefix}.{kind}", self.tensors[value])

    def _norm(self, node: OnnxNode, part: str, prefix: str) -> None:
        if node.op == "LayerNormalization":
            for kind, value in zip(("weight", "bias"), node.inputs[1:], strict=False):
                if value in self.tensors:
                    self._put(f"{prefix}.{kind}", self.tensors[value])
            epsilon = node.attributes.get("epsilon", 1e-5)
            self.epsilons[part].update([epsilon] if isinstance(epsilon, float) else [])
        # Before opset 17 a norm is spelt out: ... / sqrt(variance + epsilon) · weight + bias.
        for tensor in self._weights(node) if node.op in ("Mul", "Add") else []:
            if tensor.numel() > 1:
                self._put(f"{prefix}.{'weight' if node.op == 'Mul' else 'bias'}", tensor)
            elif node.op == "Add" and tensor.numel() == 1:
                self.epsilons[part].add(float(tensor))

    def _linear(self, node: OnnxNode, prefix: str) -> None:
        for tensor in self._weights(node):
            if node.op == "MatMul" and tensor.dim() == 2:  # x · W of the exporter, x · Wᵗ of torch
                self._put(f"{prefix}.weight", tensor.t())
            elif node.op == "Add":
                self._put(f"{prefix}.bias", tensor)

    def _quantizer(self) -> None:
        made_by = {output: node for node in self.nodes for output in node.outputs}
        for node in self.nodes:
            if node.name.endswith("/_codebook/Pow_1"):  # the squares of |x − c|² = x² − 2 x · c + c²
                for tensor in self._weights(node):
                    if tensor.dim() == 2:
                        self._put("quantizer._codebook.embed", tensor.t())
            biases = [value for value in node.inputs if value.endswith("quantizer.project_in.bias")]
            if node.op != "Add" or not biases or biases[0] not in self.tensors:
                continue
            self._put("quantizer._codebook.project_down.bias", self.tensors[biases[0]])
            for product in (made_by[value] for value in node.inputs if value in made_by):
                for tensor in self._weights(product) if product.op == "MatMul" else []:
                    self._put("quantizer._codebook.project_down.weight", tensor.t() if tensor.dim() == 2 else tensor)

    def _weights(self, node: OnnxNode) -> list[Tensor]:
        return [self.tensors[value] for value in node.inputs if value in self.tensors]

    def _put(self, name: str, tensor: Tensor) -> None:
        if name in self.state and not torch.equal(self.state[name], tensor):
            raise CheckpointError(f"{self.path}: two nodes have different weights for {name}: it is another network")
        self.state[name] = tensor

    def _stride(self) -> int:
        """Of the first convolution; the second's must be 2."""
        strides = [node.attributes.get("strides", (1,)) for node in self.convs]
        if len(strides) != 2 or strides[1] != (2,) or strides[0] not in ((1,), (2,)):
            raise CheckpointError(
                f"{self.path}: wanted two convolutions, of stride 1 or 2 and of stride 2, found strides "
                f"{strides[:5]}: it is no S3Tokenizer"
            )
        return 1 if strides[0] == (1,) else 2

    def _epsilon(self, part: str) -> float:
        found = self.epsilons[part]
        if len(found) != 1:
            raise CheckpointError(f"{self.path}: wanted one epsilon for all norms {part}, found {sorted(found)[:5]}")
        return found.pop()
