"""What a person sees of a run: the panel and its pump, the static record, the plotly figure."""
