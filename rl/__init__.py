"""Training and judging: drawn questions, lessons, supervised stages, preferences, policies, evaluation."""
