"""The one place that touches a running trainer: between two steps, and through few named attributes."""
