"""Read and write checkpoints without ever running anything that a file asks for.

    read_safetensors, read_safetensors_metadata, write_safetensors    tensors.py
    read_torch                                                        tensors.py
    read_json, write_json, read_yaml, parse_yaml                      plain.py
    read_onnx, read_onnx_initializers                                 onnx.py
    read_joblib, read_npy_object, Record                              joblib.py, pickles.py, stand_ins.py
    read_centroids                                                    centroids.py
    extract                                                           archives.py
    file_sha256, CheckpointWriteError                                 base.py

A file that is broken, hostile or of another kind gives `CheckpointError`, whose message names the file, what
was wanted, what was found and what to do. A file that cannot be written gives `CheckpointWriteError`, which
is also an `OSError`; the file that was there before is untouched and nothing half-written is left.
"""

from audiotok.checkpoint.archives import extract
from audiotok.checkpoint.base import CheckpointWriteError, file_sha256
from audiotok.checkpoint.centroids import read_centroids
from audiotok.checkpoint.joblib import read_joblib, read_npy_object
from audiotok.checkpoint.onnx import OnnxGraph, OnnxNode, read_onnx, read_onnx_initializers
from audiotok.checkpoint.plain import parse_yaml, read_json, read_yaml, write_json
from audiotok.checkpoint.stand_ins import Record
from audiotok.checkpoint.tensors import (
    read_safetensors,
    read_safetensors_metadata,
    read_torch,
    write_safetensors,
)

__all__ = [
    "CheckpointWriteError",
    "OnnxGraph",
    "OnnxNode",
    "Record",
    "extract",
    "file_sha256",
    "parse_yaml",
    "read_centroids",
    "read_joblib",
    "read_json",
    "read_npy_object",
    "read_onnx",
    "read_onnx_initializers",
    "read_safetensors",
    "read_safetensors_metadata",
    "read_torch",
    "read_yaml",
    "write_json",
    "write_safetensors",
]
