"""Tokenizers, chat rendering, and the tool-call grammar with its device and host parsers. Imports only ``core``."""
