"""The demo's parts: what is taken in, what is judged, what is shown."""
