"""One proof per method: what is built, what is compared with which stored array, and what is left out for which reason."""
