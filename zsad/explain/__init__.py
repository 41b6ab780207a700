"""What a vision-language model says about flagged pictures. The detector decides; the model describes what it sees."""
