"""Rewards, advantages, losses and the compiled training steps."""
