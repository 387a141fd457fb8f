"""Quantisation-aware training with the NPU's own arithmetic."""
