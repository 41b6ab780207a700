"""From a source of pictures to tensors, and from maps back to pictures."""
