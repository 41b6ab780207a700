"""Modules with learned weights that methods are made of."""
