"""PMC-VQA, version 1."""
