"""Proof that methods equal their authors' code: the same tiny weights, the same pictures, stored outputs beside ours."""

from zsad.verification.proof import Verification, list_proofs, verify

__all__ = ["Verification", "list_proofs", "verify"]
