"""Networks that are no part of kcaps: baselines, and a small capsule network."""
