"""Tokenizers, chat rendering, the tool-call grammar and its two parsers. Imports only ``core``."""
