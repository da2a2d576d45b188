"""What the benchmarks under tools/ measure and how; no model needs anything from here."""
