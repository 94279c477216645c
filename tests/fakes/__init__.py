"""What tests stand on: hand-made fakes, oracles, and rigs for real processes."""
