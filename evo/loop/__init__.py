"""Running a search: rounds or steady state, when it stops, who listens, and the last step."""
