"""Runs in the second environment: a codec's original package, with freshly drawn weights, on real clips.

    python run_codecs.py PACKAGE OUT_FOLDER CLIP.flac ... [--seed N]

PACKAGE is encodec, dac, snac or speechtokenizer. OUT_FOLDER gets, for each kind of network that the package
publishes, NAME/checkpoint/ (the weights in the package's own format, from which everything beside it was computed) and
arrays; and meta.json, which lists them: for every clip whole and cut to awkward lengths, and for one equal-length
batch, the audio that went in (`wav`, [B, C, T]), the codes (`codes`, [B, K, F], first quantizer first) and what the
package decodes them to (`recon`, [B, C, T'], not cut), and for some the same with the first `books` quantizers.
"""

import argparse
import copy
import hashlib
import importlib.metadata
import json
import math
import warnings
from pathlib import Path
from unittest import mock

warnings.simplefilter("ignore")

import numpy as np
import soundfile
import torch
import torchaudio
from einops import rearrange
from torch import nn

# ---- sizes: every kind of network that is published, but narrow ---------------------------------------

ENCODEC_SIZES = {
    "24khz": {
        "sample_rate": 24000,
        "channels": 1,
        "causal": True,
        "model_norm": "weight_norm",
        "audio_normalize": False,
        "target_bandwidths": [1.2, 2.4, 4.8],
        "segment": None,
        "overlap": 0.01,
        "bins": 256,
        "n_filters": 8,
        "dimension": 32,
        "ratios": [8, 5, 4, 2],
        "lstm": 2,
        "n_residual_layers": 1,
        "kernel_size": 7,
        "last_kernel_size": 7,
        "residual_kernel_size": 3,
        "dilation_base": 2,
        "compress": 2,
        "n_q": 8,
        "name": "encodec_24khz",
    }
}
ENCODEC_SIZES["48khz"] = ENCODEC_SIZES["24khz"] | {
    "sample_rate": 48000,
    "channels": 2,
    "causal": False,
    "model_norm": "time_group_norm",
    "audio_normalize": True,
    "target_bandwidths": [2.4, 4.8, 9.6],
    "segment": 1.0,
    "name": "encodec_48khz",
}

DAC_SIZES = {
    "16khz": {"sample_rate": 16000, "encoder_rates": [2, 4, 5, 8], "n_codebooks": 12},
    "24khz": {"sample_rate": 24000, "encoder_rates": [2, 4, 5, 8], "n_codebooks": 32},
    "44khz": {"sample_rate": 44100, "encoder_rates": [2, 4, 8, 8], "n_codebooks": 9},
}

SNAC_SIZES = {
    "24khz": {
        "sampling_rate": 24000,
        "encoder_dim": 8,
        "encoder_rates": [2, 4, 8, 8],
        "decoder_dim": 96,
        "decoder_rates": [8, 8, 4, 2],
        "attn_window_size": None,
        "codebook_size": 128,
        "codebook_dim": 8,
        "vq_strides": [4, 2, 1],
        "noise": True,
        "depthwise": True,
    }
}
SNAC_SIZES["32khz"] = SNAC_SIZES["24khz"] | {
    "sampling_rate": 32000,
    "encoder_rates": [2, 3, 8, 8],
    "decoder_dim": 128,
    "decoder_rates": [8, 8, 3, 2],
    "attn_window_size": 32,
    "vq_strides": [8, 4, 2, 1],
}

SPEECHTOKENIZER_SIZES = {
    "hubert_avg": {
        "sample_rate": 16000,
        "n_filters": 8,
        "strides": [8, 5, 4, 2],
        "dimension": 64,
        "semantic_dimension": 48,
        "bidirectional": True,
        "dilation_base": 2,
        "residual_kernel_size": 3,
        "n_residual_layers": 1,
        "lstm_layers": 2,
        "activation": "ELU",
        "codebook_size": 128,
        "n_q": 8,
    }
}
SPEECHTOKENIZER_SIZES["deeper"] = SPEECHTOKENIZER_SIZES["hubert_avg"] | {
    "semantic_dimension": 64,
    "n_residual_layers": 2,
    "strides": [6, 5, 4, 2],
}


# ---- packages ---------------------------------------------------------------------------------------


class Original:
    """One network of one package: how it is built, saved, loaded and called."""

    channels = 1
    partial_decode = True  # from the first quantizers alone

    def __init__(self, config):
        self.config = config

    @property
    def frame(self):
        """Samples per column of codes."""
        return math.prod(self.config["encoder_rates"])

    @property
    def lengths(self):
        """Awkward numbers of samples: one, less and more than one frame, an odd number of several."""
        return [1, self.frame - 1, self.frame + 1, 7 * self.frame // 2 | 1]

    def prepared(self, wav):
        """What the encoder itself sees of wav."""
        return wav

    def fit(self, model, latent):
        """Draws the codebooks from the encoder's output; gives it back quantized."""
        raise NotImplementedError

    def encode(self, model, wav, books=None):
        """Codes in the package's own form."""
        raise NotImplementedError

    def decode(self, model, codes):
        return model.decode(codes)

    def tokens(self, codes):
        """Those codes as [B, K, F]."""
        return codes


class Encodec(Original):
    """The two published kinds: causal mono with weight norm; chunked stereo with group norm and loudness."""

    package = "encodec"

    @property
    def channels(self):
        return self.config["channels"]

    @property
    def frame(self):
        return math.prod(self.config["ratios"])

    @property
    def lengths(self):
        if self.config["segment"] is None:
            return super().lengths
        segment = int(self.config["segment"] * self.config["sample_rate"])
        return [*super().lengths, segment - 1, segment + 1]  # the second segment begins within the first

    def build(self):
        from encodec import EncodecModel
        from encodec.modules import SEANetDecoder, SEANetEncoder
        from encodec.quantization import ResidualVectorQuantizer

        sizes = "channels dimension n_filters n_residual_layers ratios kernel_size last_kernel_size"
        sizes += " residual_kernel_size dilation_base causal compress lstm"
        sizes = {name: self.config[name] for name in sizes.split()} | {"norm": self.config["model_norm"]}
        return EncodecModel(
            SEANetEncoder(**sizes),
            SEANetDecoder(**sizes),
            ResidualVectorQuantizer(
                dimension=self.config["dimension"], n_q=self.config["n_q"], bins=self.config["bins"]
            ),
            self.config["target_bandwidths"],
            self.config["sample_rate"],
            self.config["channels"],
            normalize=self.config["audio_normalize"],
            segment=self.config["segment"],
            overlap=self.config["overlap"],
            name=self.config["name"],
        )

    def prepared(self, wav):
        if self.config["audio_normalize"]:
            wav = wav[..., : int(self.config["segment"] * self.config["sample_rate"])]
            wav = wav / wav.mean(1, keepdim=True).square().mean(2, keepdim=True).sqrt()
        return wav

    def fit(self, model, latent):
        return fit_euclidean(model.quantizer.vq.layers, latent)

    def save(self, model, folder):
        torch.save(model.state_dict(), folder / "weights")
        digest = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()
        (folder / "weights").rename(folder / f"{self.config['name']}-{digest[:8]}.th")
        (folder / "config.json").write_text(json.dumps(self.config, indent=1))

    def load(self, folder):
        model = self.build()
        name = next(folder.glob("*.th")).name
        model.load_state_dict(model._get_pretrained(name, folder))  # which checks the digits in the name
        return model

    def encode(self, model, wav, books=None):
        share = (books or self.config["n_q"]) / self.config["n_q"]
        model.set_target_bandwidth(share * self.config["target_bandwidths"][-1])
        return model.encode(wav)

    def tokens(self, codes):
        return torch.cat([segment for segment, _ in codes], dim=2)


class DAC(Original):
    """The three published rates."""

    package = "descript-audio-codec"

    def build(self):
        from dac import DAC

        rates = self.config["encoder_rates"]
        return DAC(encoder_dim=8, decoder_dim=96, decoder_rates=rates[::-1], codebook_size=128, **self.config)

    def prepared(self, wav):
        return wav[..., : wav.shape[-1] // self.frame * self.frame]

    def fit(self, model, latent):
        return fit_factorized(model.quantizer.quantizers, latent)

    def save(self, model, folder):
        rate = self.config["sample_rate"]
        model.save(folder / ("weights.pth" if rate == 44100 else f"weights_{rate // 1000}khz.pth"), package=False)

    def load(self, folder):
        from dac.utils import load_model

        return load_model(load_path=next(folder.glob("*.pth")))

    def encode(self, model, wav, books=None):
        return model.encode(model.preprocess(wav, model.sample_rate), books)[1]

    def decode(self, model, codes):
        return model.decode(model.quantizer.from_codes(codes)[0])


class SNAC(Original):
    """Without attention (24 kHz as published) and with it (32 and 44 kHz). Decoding draws noise: here, zeros."""

    package = "snac"
    partial_decode = False

    @property
    def frame(self):
        return super().frame * self.config["vq_strides"][0]

    def build(self):
        from snac import SNAC

        return SNAC(**self.config)

    def prepared(self, wav):
        whole = self.frame * 4  # of any attention window here
        return wav[..., : wav.shape[-1] // whole * whole]

    def fit(self, model, latent):
        return fit_factorized(model.quantizer.quantizers, latent)

    def save(self, model, folder):
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(self.config, indent=1))

    def load(self, folder):
        from snac import SNAC

        return SNAC.from_pretrained(str(folder))

    def encode(self, model, wav, books=None):
        return model.encode(wav)

    def decode(self, model, codes):
        with mock.patch("torch.randn", torch.zeros):
            return model.decode(codes)

    def tokens(self, codes):
        """Each column holds the codes of the same stretch of time: those of a finer level one under the other."""
        frames = codes[0].shape[1]
        return torch.cat([rearrange(level, "b (f j) -> b j f", f=frames) for level in codes], dim=1)


class SpeechTokenizer(Original):
    """The published kind, and one whose two feature sizes are equal, so that no layer lies between them."""

    package = "speechtokenizer"

    @property
    def frame(self):
        return math.prod(self.config["strides"])

    def build(self):
        from speechtokenizer import SpeechTokenizer

        return SpeechTokenizer(self.config)

    def fit(self, model, latent):
        return fit_euclidean(model.quantizer.vq.layers, latent)

    def save(self, model, folder):
        torch.save(model.state_dict(), folder / "SpeechTokenizer.pt")
        (folder / "config.json").write_text(json.dumps(self.config, indent=1))

    def load(self, folder):
        from speechtokenizer import SpeechTokenizer

        return SpeechTokenizer.load_from_checkpoint(folder / "config.json", folder / "SpeechTokenizer.pt")

    def encode(self, model, wav, books=None):
        return model.encode(wav, n_q=books)

    def tokens(self, codes):
        return codes.transpose(0, 1)


ORIGINALS = {
    "encodec": (Encodec, ENCODEC_SIZES),
    "dac": (DAC, DAC_SIZES),
    "snac": (SNAC, SNAC_SIZES),
    "speechtokenizer": (SpeechTokenizer, SPEECHTOKENIZER_SIZES),
}


# ---- weights ---------------------------------------------------------------------------------------


def draw(original, clips):
    """A network with random weights, no layer of which vanishes or saturates on the clips, and codebooks of what its
    encoder makes of them."""
    model = original.build().eval()
    for parameter in model.parameters():
        if parameter.squeeze().dim() == 1:  # gains and slopes: many begin as all ones
            parameter.add_(0.2 * torch.randn_like(parameter))
    shortest = min(clip.shape[1] for clip in clips)
    latent = standardized(model.encoder, original.prepared(torch.stack([clip[:, :shortest] for clip in clips])))
    standardized(model.decoder, original.fit(model, latent))
    return model


def standardized(network, x):
    """The network's output. Each of its layers, when it is run, is scaled to standard deviation 0.5 and shifted to zero
    mean (as Salimans and Kingma, 2016, arXiv:1602.07868, section 3, but with one scale for all channels). At 1, a deep
    stack of Snake units grows the rounding of float32 to 3e-5 of audio; at 0.5, to 1e-5."""

    def rescale(layer, _, out):
        time_last = not isinstance(layer, nn.Linear)
        centre = out.mean((0, 2 if time_last else 1), keepdim=True) if layer.bias is not None else torch.zeros(1)
        spread = 2 * (out - centre).std()
        set_weight(layer, layer.weight / spread)
        if layer.bias is not None:
            layer.bias.copy_((layer.bias - centre.flatten()) / spread)
        return (out - centre) / spread

    kinds = nn.Conv1d, nn.ConvTranspose1d, nn.Linear
    hooks = [layer.register_forward_hook(rescale) for layer in network.modules() if isinstance(layer, kinds)]
    x = network(x)
    for hook in hooks:
        hook.remove()
    return x


def set_weight(layer, weight):
    """Also where the weight is stored as direction and length, in either of torch's two ways."""
    if hasattr(layer, "weight_v"):
        layer.weight_v.copy_(weight)
        layer.weight_g.copy_(torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True))
    elif hasattr(layer, "parametrizations"):
        layer.weight = weight
    else:
        layer.weight.copy_(weight)


def fit_euclidean(layers, latent):
    """Residual codebooks [V, D] in the encoder's own space."""
    residual = latent
    for layer in layers:
        book = layer._codebook
        book.embed.copy_(entries_near(rearrange(residual, "b d f -> (b f) d"), book.codebook_size))
        book.embed_avg.copy_(book.embed)
        book.inited.fill_(1)
        residual = residual - layer(residual)[0]
    return latent - residual


def fit_factorized(quantizers, latent):
    """Residual codebooks behind projections, random orthogonal ones."""
    residual = latent
    for quantizer in quantizers:
        size, width = quantizer.codebook.weight.shape
        down = torch.linalg.qr(torch.randn(latent.shape[1], width))[0].T
        set_weight(quantizer.in_proj, down[:, :, None])
        set_weight(quantizer.out_proj, down.T[:, :, None])
        pooled = nn.functional.avg_pool1d(residual, getattr(quantizer, "stride", 1))
        frames = rearrange(quantizer.in_proj(pooled), "b d f -> (b f) d")
        quantizer.codebook.weight.copy_(entries_near(frames, size))
        residual = residual - quantizer(residual)[0]
    return latent - residual


def entries_near(frames, size):
    """[size, D]: frames [N, D] drawn at random, and moved, so that none is met exactly and something is left over."""
    return frames[torch.randint(len(frames), (size,))] + 0.3 * frames.std() * torch.randn(size, frames.shape[1])


# ---- runs ------------------------------------------------------------------------------------------


def load_clip(path, rate, channels):
    """[C, T]. Where two channels are wanted of one, the second is the first at half level, 1 ms later."""
    wav, own = soundfile.read(path, dtype="float32", always_2d=True)
    wav = torchaudio.functional.resample(torch.from_numpy(wav.T.copy()), own, rate)
    if channels == 2 and len(wav) == 1:
        return torch.cat([wav, 0.5 * wav.roll(rate // 1000, 1)])
    return wav if len(wav) == channels else wav.mean(0, keepdim=True)


def inputs(original, clips):
    """What is encoded: (what it is, wav [B, C, T])."""
    for name, wav in clips.items():
        yield name, wav[None]
        for length in original.lengths:
            start = (wav.shape[1] - length) // 2
            yield f"{name}, {length} samples", wav[None, :, start : start + length]
    shortest = min(wav.shape[1] for wav in clips.values())
    yield "batch", torch.stack([wav[:, :shortest] for wav in clips.values()])


def steady_draw(original, clips, wavs, seed):
    """The first draw, from this seed on, none of whose codes hangs on rounding; and its seed. Float64 must give the
    same codes, even of audio moved by several times the rounding of float32."""
    for tried in range(seed, seed + 20):
        torch.manual_seed(tried)
        model = draw(original, clips)
        doubled = copy.deepcopy(model).double()
        for wav in wavs:
            moved = wav.double() * (1 + 3e-6 * torch.randn_like(wav.double()))
            codes, of_moved = original.encode(model, wav), original.encode(doubled, moved)
            if not torch.equal(original.tokens(codes), original.tokens(of_moved)):
                break
        else:
            return model, tried
    raise SystemExit(f"rounding decides some code in each of 20 networks of {original.package}")


def run(original, model, wav, books, folder, number):
    """Writes the arrays of one input. Their names."""
    codes = original.encode(model, wav, books)
    arrays = {"wav": wav, "codes": original.tokens(codes), "recon": original.decode(model, codes)}
    for kind, array in arrays.items():
        np.save(folder / f"{kind}_{number}.npy", array.numpy())
    return {kind: f"{folder.name}/{kind}_{number}.npy" for kind in arrays}


def run_case(original, name, paths, out, seed):
    """One network: drawn, saved, loaded again, run. Its entry of meta.json."""
    folder = out / name
    (folder / "checkpoint").mkdir(parents=True)
    rate = original.config.get("sample_rate") or original.config["sampling_rate"]
    clips = {path.stem: load_clip(path, rate, original.channels) for path in paths}
    wavs = dict(inputs(original, clips))
    drawn, drawn_seed = steady_draw(original, list(clips.values()), wavs.values(), seed)
    original.save(drawn, folder / "checkpoint")
    model = original.load(folder / "checkpoint").eval()
    items = []
    for what, wav in wavs.items():
        for books in [None, 2] if what in clips and original.partial_decode else [None]:
            names = run(original, model, wav, books, folder, len(items))
            items.append({"what": what, "whole": what in clips, "books": books} | names)
    return {
        "name": name,
        "checkpoint": f"{name}/checkpoint",
        "seed": drawn_seed,
        "sample_rate": rate,
        "items": items,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("package", choices=sorted(ORIGINALS))
    parser.add_argument("out", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    kind, sizes = ORIGINALS[args.package]
    with torch.no_grad():
        cases = [run_case(kind(config), name, args.clips, args.out, args.seed) for name, config in sizes.items()]
    meta = {
        "package": kind.package,
        "version": importlib.metadata.version(kind.package),
        "torch": torch.__version__,
        "cases": cases,
    }
    (args.out / "meta.json").write_text(json.dumps(meta, indent=1))


if __name__ == "__main__":
    main()
