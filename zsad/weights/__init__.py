"""Files of learned weights: reading, downloading, publishing."""
