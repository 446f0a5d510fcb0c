"""Tokenizers, chat rendering, the tool-call grammar, its two parsers, constrained decoding. Imports only ``core``."""
