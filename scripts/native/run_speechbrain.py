"""Runs in the second environment: SpeechBrain's own DiscreteSSL on local files.

    python run_speechbrain.py KIND DATASET SSL_FOLDER VOCODER_FOLDER LAYERS SIZES IN.npz OUT.npz

IN holds wav_0, wav_1, ...; OUT gets codes_0 [F, K], ... of each file alone, and recon_0 of the first if it decodes.
"""

import sys
import tempfile
import warnings

warnings.simplefilter("ignore")

import numpy as np
import torch
from speechbrain.integrations.audio_tokenizers import discrete_ssl
from speechbrain.integrations.huggingface.hubert import HuBERT
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2
from speechbrain.integrations.huggingface.wavlm import WavLM

kind, dataset, ssl_folder, vocoder_folder, layers, sizes, source, target = sys.argv[1:]
layers = [int(layer) for layer in layers.split(",")]
sizes = [int(size) for size in sizes.split(",")]
discrete_ssl.snapshot_download = lambda **_: vocoder_folder  # the files are here already
with tempfile.TemporaryDirectory() as savedir:
    ssl = {"hubert": HuBERT, "wav2vec2": Wav2Vec2, "wavlm": WavLM}[kind](ssl_folder, savedir, output_all_hiddens=True)
    model = discrete_ssl.DiscreteSSL(
        savedir, ssl, dataset, vocoder_repo_id=vocoder_folder, num_clusters=sizes, layers_num=layers
    )
model.eval()
out = {}
with np.load(source) as wavs, torch.no_grad():
    for i in range(len(wavs.files)):
        wav = torch.from_numpy(wavs[f"wav_{i}"])[None]
        flags = [False] * len(layers)
        tokens, *_ = model.encode(wav, SSL_layers=layers, deduplicates=flags, bpe_tokenizers=[None] * len(layers))
        out[f"codes_{i}"] = tokens[0].numpy()
        if i == 0 and len(set(sizes)) == 1:
            out["recon_0"] = model.decode(tokens, layers)[0, 0].numpy()
np.savez(target, **out)
