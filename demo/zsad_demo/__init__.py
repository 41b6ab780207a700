"""The demo: a Gradio page and an API around ``zsad.Session``."""
