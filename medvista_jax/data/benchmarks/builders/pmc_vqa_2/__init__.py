"""PMC-VQA, version 2."""
