"""Prompt sets, sentence encoders and learned prompts."""
