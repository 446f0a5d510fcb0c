"""MMMU, Health & Medicine."""
