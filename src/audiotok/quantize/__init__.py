"""Quantizers: pure tensors, trainable, one result type."""
