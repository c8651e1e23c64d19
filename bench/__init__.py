"""Benches: ``pytest bench --benchmark`` times every op and one training step against plain torch."""
