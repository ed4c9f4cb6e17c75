"""Runs what was made. So far: dense checkpoints through transformers."""
