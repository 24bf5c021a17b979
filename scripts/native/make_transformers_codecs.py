"""Runs in the second environment: tiny codecs of the transformers library, with its feature extractors and torchaudio.

    python make_transformers_codecs.py OUT_FOLDER CLIP.flac ...

The first clip is encoded and decoded, the others only draw codebooks. OUT_FOLDER gets, for each codec, NAME/ as
`save_pretrained` writes it, input.npy [T], codes_<samples>.npy [K, F] and recon_<samples>.npy [T'] of the first so
many samples of the input alone, and meta.json.
"""

import argparse
import json
import math
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import numpy as np
import soundfile
import torch
import torchaudio
import transformers
from torch import nn

DAC = {
    "encoder_hidden_size": 2,
    "decoder_hidden_size": 64,
    "hidden_size": 24,
    "n_codebooks": 2,
    "codebook_size": 16,
}
SSL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [12] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
W2V_BERT = {
    "model_type": "wav2vec2-bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "output_hidden_size": 32,
}
FSQ = {
    "hidden_size": 64,  # two channels in each group of the norm, so that one frame has a variance
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "encoder_hidden_size": 2,
    "quantization_dim": 96,
    "semantic_model_config": W2V_BERT,
}


def residual(name, ratios, ssl, **values):
    """Configuration and feature extractor of X-Codec or Higgs Audio v2."""
    inner = {
        "acoustic_model_config": {
            **DAC,
            "model_type": "dac",
            "downsampling_ratios": ratios,
            "upsampling_ratios": ratios,
        },
        "semantic_model_config": {**SSL, "model_type": ssl},
    }
    config = getattr(transformers, f"{name}Config")(codebook_size=64, **inner, **values)
    extractor = transformers.DacFeatureExtractor(sampling_rate=config.sample_rate, hop_length=math.prod(ratios))
    return getattr(transformers, f"{name}Model"), config, extractor


def levels(name):
    """Configuration and feature extractor of X-Codec 2 or NeuCodec."""
    config, extractor = (
        getattr(transformers, f"{name}Config")(**FSQ),
        getattr(transformers, f"{name}FeatureExtractor")(),
    )
    return getattr(transformers, f"{name}Model"), config, extractor


CODECS = {
    "xcodec-wavlm": lambda: residual("Xcodec", [8, 5, 4, 2], "wavlm", target_bandwidths=[0.3, 0.6, 1.2]),
    "higgs-audio-v2": lambda: residual(
        "HiggsAudioV2Tokenizer", [8, 5, 4, 2, 3], "hubert", target_bandwidths=[0.15, 0.3, 0.6], codebook_dim=8
    ),
    "xcodec2": lambda: levels("Xcodec2"),
    "neucodec": lambda: levels("NeuCodec"),
}


def redraw(model):
    """Weights that keep the signal's size, so that no layer vanishes."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
            fan = module.weight[0].numel() if not isinstance(module, nn.ConvTranspose1d) else 2 * module.weight.shape[0]
            module.weight.normal_(std=fan**-0.5)
            if module.bias is not None:
                module.bias.normal_(std=0.02)


def draw_codebooks(model, batches):
    """Codebooks of what the clips leave for them."""
    if hasattr(model, "fc_encoder"):
        seen = []
        handle = model.fc_encoder.register_forward_hook(lambda *call: seen.append(call[2][0]))
        for batch in batches:
            model.encode(**batch)
        handle.remove()
        values = torch.cat(seen) @ model.quantizer.project_in.weight.T
        model.quantizer.project_in.weight /= values.std(0)[:, None]
        model.quantizer.project_in.bias.copy_(-(values / values.std(0)).mean(0))
        return
    seen = []
    handle = model.fc.register_forward_hook(lambda *call: seen.append(call[2][0]))
    for batch in batches:
        model.encode(batch["input_values"])
    handle.remove()
    left = torch.cat(seen)
    for layer in model.quantizer.quantizers:
        inside = layer.project_in(left) if hasattr(layer, "project_in") else left
        layer.codebook.embed.copy_(inside[torch.randperm(len(inside))[: len(layer.codebook.embed)]])
        columns = left.T[None]
        left = left - layer.decode(layer.encode(columns))[0].T
    loudness = model.decode(model.encode(batches[0]["input_values"]).audio_codes).audio_values.std()
    for value in model.acoustic_decoder.conv2.parameters():
        value /= 10 * loudness


def rate(config):
    return getattr(config, "input_sampling_rate", None) or getattr(config, "sampling_rate", None) or config.sample_rate


def inputs(extractor, wav, dtype=torch.float32):
    if isinstance(extractor, transformers.DacFeatureExtractor):
        batch = extractor(raw_audio=wav, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return {"input_values": batch["input_values"].to(dtype)}
    batch = extractor(audio=wav, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}


@torch.no_grad()
def make(name, folder, clips):
    torch.manual_seed(0)
    kind, config, extractor = CODECS[name]()
    model = kind(config).eval()
    redraw(model)
    waves = [torchaudio.functional.resample(torch.from_numpy(wav), 16000, rate(config)).numpy() for wav in clips]
    draw_codebooks(model, [inputs(extractor, wav) for wav in waves])
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    model = kind.from_pretrained(folder).eval()
    hop = extractor.hop_length
    start = rate(config) // 2  # where the speech has begun
    wav = waves[0][start : start + 40 * hop + hop // 3]
    np.save(folder / "input.npy", wav)
    exact, differing, distinct, lengths = kind.from_pretrained(folder).double().eval(), 0, 0, []
    for length in (len(wav), 7 * hop, 2 * hop - 1, hop):
        codes = model.encode(**inputs(extractor, wav[:length])).audio_codes
        differing += int((exact.encode(**inputs(extractor, wav[:length], torch.float64)).audio_codes != codes).sum())
        distinct = distinct or [len(row.unique()) for row in codes[0]]
        lengths.append(length)
        np.save(folder / f"codes_{length}.npy", codes[0].numpy().astype(np.int64))
        np.save(folder / f"recon_{length}.npy", model.decode(audio_codes=codes).audio_values[0, 0].numpy())
    meta = {
        "upstream": f"transformers {transformers.__version__}, torchaudio {torchaudio.__version__}",
        "model": kind.__name__,
        "sample_rate": rate(config),
        "lengths": lengths,
        "distinct_codes": distinct,
        "codes_differing_in_float64": differing,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(name, meta)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("clips", nargs="+", type=Path)
    arguments = parser.parse_args()
    clips = [soundfile.read(path, dtype="float32")[0] for path in arguments.clips]
    for name in CODECS:
        (arguments.out / name).mkdir(parents=True, exist_ok=True)
        make(name, arguments.out / name, clips)


if __name__ == "__main__":
    main()
