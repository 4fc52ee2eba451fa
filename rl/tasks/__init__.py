"""Pictures with questions, known answers, evidence and the oracle's way to the answer."""
