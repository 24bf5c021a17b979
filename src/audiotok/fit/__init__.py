"""Fit k-means tokenizers on a user's own audio: features, a sample of their frames, k-means, a tokenizer."""

from .fitting import fit_kmeans, fit_several
from .report import FitReport

__all__ = ["FitReport", "fit_kmeans", "fit_several"]
