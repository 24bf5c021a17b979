"""The model card that goes with saved weights."""

import json
from typing import Any

from .spec import Spec


def model_card(spec: Spec, family: str, provenance: dict[str, Any]) -> str:
    """A README.md in the Hub's form: YAML front matter, what it takes and gives, where it comes from.

    `provenance["license"]` is the Hub's licence identifier; a card without one says that it is unknown.
    """
    licence = provenance.get("license", "unknown")
    rows = [
        ("sample rate", f"{spec.sample_rate} Hz, {spec.channels} channel{'s' * (spec.channels > 1)}"),
        ("frame rate", f"{spec.frame_rate:g} Hz (hop {spec.hop_length} samples)"),
        ("codebooks", f"{spec.num_codebooks} x {_sizes(spec)}"),
        ("bit rate", f"{spec.bitrate_bps / 1000:g} kbit/s"),
        ("decodes", "yes" if spec.decodable else "no"),
        ("fewer codebooks decode", "yes" if spec.nested else "no"),
    ]
    lines = [
        "---",
        f"license: {json.dumps(licence)}",
        "library_name: audiotok",
        "tags: [audio, audio-tokenizer]",
        "---",
        f"# {spec.name}",
        "",
        f"An audio tokenizer of the family `{family}`, made with audiotok.",
        "",
        "```python",
        "import audiotok",
        "",
        'tok = audiotok.load("user/repo")  # or the path of this folder',
        'codes = tok.encode_file("speech.flac")',
        *(["wav = tok.decode(codes)"] if spec.decodable else []),
        "```",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows),
    ]
    if provenance:
        lines += ["", "## Where it comes from", ""]
        for name, value in sorted(provenance.items()):
            lines += _section(name, value)
    return "\n".join(lines) + "\n"


def _sizes(spec: Spec) -> str:
    sizes = set(spec.codebook_sizes)
    return str(sizes.pop()) if len(sizes) == 1 else str(list(spec.codebook_sizes))


def _section(name: str, value: Any) -> list[str]:
    title = name.replace("_", " ")
    if isinstance(value, dict):
        return [f"- {title}:", *(f"  - {key.replace('_', ' ')}: {inner}" for key, inner in sorted(value.items()))]
    if isinstance(value, list):
        return [f"- {title}:", *(f"  - {inner}" for inner in value)]
    return [f"- {title}: {value}"]
