"""Rollouts: prefill, decode, tools and observations over several turns, inside one compiled program."""
