"""Figures as ratios: both sides in one run, alternating, medians, the load said."""
